"""Links and paths in README and docs lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml
from doc_pages import PAGES, ROOT, prose, spans

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./{<-])(?:src|tests|conf|data_modules|tasks|docs|examples)/[\w./-]*\w(?![\w<*{])")
GENERATED = "docs/reference/"  # docs/hooks.py writes these pages into the site


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_and_pictures_exist(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if str(file.relative_to(ROOT)).startswith(GENERATED):
            nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
            assert str(file.relative_to(ROOT / "docs")) in nav, target
            continue
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    missing = [path for span in spans(page) for path in PATH.findall(span) if not (ROOT / path).exists()]
    assert not missing


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    parts = [next(iter(part.values())) for part in nav]
    entries = [entry for part in parts for entry in ([part] if isinstance(part, str) else part)]
    written = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert len(entries) == len(set(entries))
    assert {entry for entry in entries if not entry.startswith("reference/")} == written
