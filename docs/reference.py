"""The pages of the API reference: which names they list, and which of those lack a docstring."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import NamedTuple

from lightning import LightningDataModule, LightningModule
from torchmetrics import Metric

from egovlpv2.cli import COMMANDS

Documented = type | Callable[..., object]


class Page(NamedTuple):
    """A page of the reference."""

    name: str  # of the file
    title: str
    module: str  # its public names are listed; of `egovlpv2.cli`, the functions of the commands
    # Of a package with a base, the subclasses of it in all modules are listed, too.
    base: type | None = None


PAGES = (
    Page("commands", "Commands", "egovlpv2.cli"),
    Page("egovlpv2", "egovlpv2", "egovlpv2"),
    Page("backbone", "egovlpv2.model.backbone", "egovlpv2.model.backbone"),
    Page("losses", "egovlpv2.losses", "egovlpv2.losses"),
    Page("metrics", "egovlpv2.metrics", "egovlpv2.metrics", Metric),
    Page("heads", "egovlpv2.heads", "egovlpv2.heads"),
    Page("checkpoints", "egovlpv2.checkpoints", "egovlpv2.checkpoints"),
    Page("data_modules", "Data modules", "egovlpv2.data_modules", LightningDataModule),
    Page("tasks", "Tasks", "egovlpv2.tasks", LightningModule),
)


def public_objects(page: Page) -> list[Documented]:
    """List the classes and functions of a page.

    Raises:
        ValueError: There is no such class or function.
    """
    module = import_module(page.module)
    if page.module == "egovlpv2.cli":
        return list(dict.fromkeys(_function_of(name) for name in COMMANDS))
    found = list(_exported(module) if hasattr(module, "__all__") else _defined(module))
    if page.base is not None:
        modules = [import_module(f"{page.module}.{entry.name}") for entry in iter_modules(module.__path__)]
        found += [value for each in modules for value in _defined(each) if _is_subclass(value, page.base)]
    if not found:
        raise ValueError(f"{page.module} has no public classes or functions: give it an `__all__`")
    return list(dict.fromkeys(found))


def undocumented(found: Documented) -> Iterator[str]:
    """Yield the full names of a class or function, and of a class's methods, that have no docstring.

    A method that overrides a documented one, such as a hook of Lightning, needs none of its own.
    """
    name = full_name(found)
    if not _is_documented(found):
        yield name
    for method, value in vars(found).items() if inspect.isclass(found) else ():
        member = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if method.startswith("_") or not inspect.isfunction(member) or inspect.getdoc(getattr(found, method)):
            continue
        yield f"{name}.{method}"


def full_name(found: Documented) -> str:
    """Return the dotted name of a class or function where it is defined."""
    return f"{found.__module__}.{found.__qualname__}"


def write_page(page: Page) -> str:
    """Write a page in Markdown: a mkdocstrings block for each name, or a link to the page that has it.

    A name is documented on the last page that lists it. That of the commands is the first, so it links to the others.
    """
    module = import_module(page.module)
    elsewhere = {full_name(found): later.name for later in PAGES[PAGES.index(page) + 1:]
                 for found in public_objects(later)}
    blocks = []
    for found in public_objects(page):
        name = full_name(found)
        if page.module == "egovlpv2.cli":
            called = [f"`egovlpv2 {command}`" for command in COMMANDS if _function_of(command) is found]
            blocks.append(f"## {', '.join(called)}")
        link = f"### [{found.__name__}]({elsewhere[name]}.md#{name})" if name in elsewhere else f"::: {name}"
        blocks.append(link)
    return "\n\n".join([f"# {page.title}", inspect.getdoc(module) or "", *blocks]) + "\n"


def _function_of(command: str) -> Documented:
    module, function, *_ = COMMANDS[command]
    return getattr(import_module(module), function)


def _exported(module: ModuleType) -> Iterator[Documented]:
    for value in (getattr(module, name) for name in module.__all__):
        if inspect.isclass(value) or inspect.isfunction(value):
            yield value


def _defined(module: ModuleType) -> Iterator[Documented]:
    for name, value in vars(module).items():
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)) \
                and value.__module__ == module.__name__:
            yield value


def _is_documented(found: Documented) -> bool:
    doc = found.__doc__ or ""
    return bool(doc.strip()) and not doc.startswith(f"{found.__name__}(")  # what NamedTuple and dataclass write


def _is_subclass(found: Documented, base: type) -> bool:
    return inspect.isclass(found) and issubclass(found, base)
