"""The pages of the reference list the public names, and each of those is documented."""

import sys
from importlib import import_module
from types import ModuleType

import pytest
import yaml
from doc_pages import ROOT


def load_reference() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return import_module("reference")
    finally:
        sys.path.remove(str(ROOT / "docs"))


reference = load_reference()


@pytest.mark.parametrize("page", reference.PAGES, ids=lambda page: page.name)
def test_every_public_name_is_documented(page) -> None:
    assert not [name for found in reference.public_objects(page) for name in reference.undocumented(found)]
    assert reference.write_page(page).startswith(f"# {page.title}\n")


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    (listed,) = [part["Reference"] for part in nav if "Reference" in part]
    assert listed == [f"reference/{page.name}.md" for page in reference.PAGES]


def test_the_public_api_is_listed_whole() -> None:
    import egovlpv2

    page = reference.write_page(next(page for page in reference.PAGES if page.name == "egovlpv2"))
    for name in set(egovlpv2.__all__) - {"__version__"}:
        assert f".{name}\n" in page or f"### [{name}](" in page, name


def test_names_without_a_docstring_are_found() -> None:
    bare = [f"{__name__}.Described.{name}" for name in ("bare", "size", "make")]
    assert list(reference.undocumented(Described)) == bare
    assert not list(reference.undocumented(Override))
    assert list(reference.undocumented(function)) == [f"{__name__}.function"]


class Described:
    """A class of which some methods are described."""

    def __init__(self) -> None: ...

    def described(self) -> None:
        """Do something."""

    def bare(self) -> None: ...

    @property
    def size(self) -> int:
        return 1

    @classmethod
    def make(cls) -> None: ...

    def _private(self) -> None: ...


class Override(Described):
    """A class that overrides a described method."""

    def described(self) -> None: ...


def function() -> None: ...
