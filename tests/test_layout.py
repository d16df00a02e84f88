"""The package is what setup.cfg says, and imports point one way."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"src": "egovlpv2", "conf": "egovlpv2.conf", "data_modules": "egovlpv2.data_modules",
           "tasks": "egovlpv2.tasks"}
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
# The modules and packages of `egovlpv2`, from below, and what each may import. Tasks and data modules meet in conf/.
ARROWS = {
    "types": (),
    "conf": (),
    "command": ("types",),
    "arguments": ("command",),
    "io": (),
    "batch": (),
    "gradients": (),
    "distributed": ("gradients",),
    "losses": (),
    "optim": (),
    "device": ("types",),
    "tokenization": ("batch", "io"),
    "metrics": ("batch", "io"),
    "pretrained": ("io", "tokenization"),
    "model": ("batch", "gradients", "io", "pretrained", "tokenization"),
    "heads": ("distributed", "io", "metrics"),
    "video": ("arguments", "command", "io", "types"),
    "checkpoints": ("arguments", "command", "device", "heads", "io", "model", "pretrained", "tokenization", "types"),
    "viz": ("batch", "io", "model"),
    "training": ("checkpoints", "command", "io"),
    "features": ("arguments", "batch", "checkpoints", "command", "device", "io", "model", "tokenization", "types",
                 "video"),
    "search": ("arguments", "batch", "checkpoints", "command", "device", "features", "io", "tokenization", "types",
               "video"),
    "tools": ("arguments", "batch", "checkpoints", "command", "device", "features", "heads", "io", "metrics", "model",
              "tokenization", "types", "video", "viz"),
    "serve": ("arguments", "checkpoints", "command", "device", "features", "io", "search", "tools", "types", "video",
              "viz"),
    "bench": ("arguments", "command", "device", "features", "heads", "io", "metrics", "search", "types", "video"),
    "analysis": ("arguments", "batch", "bench", "command", "io", "model", "training", "types", "viz"),
    "configs": ("command", "io"),
    "train_cli": ("command", "device", "io", "training", "types"),
    "cli": ("command",),  # it names all others in its table of commands
    "data_modules": ("arguments", "batch", "bench", "checkpoints", "command", "device", "distributed", "features",
                     "heads", "io", "metrics", "search", "tokenization", "training", "types", "video"),
    "tasks": ("analysis", "batch", "bench", "checkpoints", "device", "distributed", "gradients", "heads", "losses",
              "metrics", "model", "optim", "tokenization", "types", "viz"),
}
# Modules that load others by name: the command line, the parts of the benchmark, and the public names.
LOADS_BY_NAME = {"src/__init__.py", "src/cli.py", "src/command/run.py", "src/bench/run.py"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_setup_cfg_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    found = []
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.append(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
        missing = {p.parent for p in (ROOT / folder).rglob("*.py") if not (p.parent / "__init__.py").is_file()}
        assert not missing, f"folders without __init__.py: {missing}"
    assert sorted(listed) == sorted(found)


def test_the_mapping_holds() -> None:
    import egovlpv2
    import egovlpv2.conf
    import egovlpv2.data_modules
    import egovlpv2.tasks

    for folder, module in zip(FOLDERS, (egovlpv2, egovlpv2.conf, egovlpv2.data_modules, egovlpv2.tasks), strict=True):
        assert Path(module.__file__).resolve().parent == ROOT / folder


def unit(module: str) -> str:
    """The package or module right under `egovlpv2`."""
    return module.split(".")[1] if "." in module else ""


def test_arrows_make_no_circle() -> None:
    order = list(ARROWS)
    assert all(order.index(other) < order.index(name) for name, others in ARROWS.items() for other in others)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    names = imports(path)
    # `import src` would make a second copy of every class.
    assert not {n.split(".")[0] for n in names} & {"src", "tasks", "data_modules", "tests"}
    folder, *inner = path.relative_to(ROOT).with_suffix("").parts
    own = unit(".".join([FOLDERS[folder], *inner]))
    if own == "__init__":
        return  # the public names, which it loads when they are used
    used = {unit(name) for name in names if name.startswith("egovlpv2.")} - {own}
    assert used <= {*ARROWS[own]}, f"{path}: {sorted(used.difference(ARROWS[own]))}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_own_modules_are_imported_at_the_top(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)
              if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("egovlpv2")]
    assert not inside, f"{path}:{inside[0].lineno}"
    loads = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             and any(alias.name == "import_module" for alias in node.names)}
    assert not loads or str(path.relative_to(ROOT)) in LOADS_BY_NAME


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """A function's signature and docstring don't count."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 40, f"{path}:{node.lineno}: {node.name}"


OPENINGS = ("What", "Which", "Where", "Whether", "How", "Who", "When")


def test_docstrings_open_plainly() -> None:
    found = [f"{path.relative_to(ROOT)}: {text.splitlines()[0]}" for path in SOURCES
             for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node))
             and text.split()[0] in OPENINGS]
    assert len(found) < 10, "\n".join(found)


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").rglob("*.py")], ids=lambda p: p.name)
def test_no_loose_loading_and_no_running_of_files(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: a bare except"
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            words = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            assert words.get("strict", True) or name == "zip", f"{path}:{node.lineno}: strict=False"
            if not path.is_relative_to(ROOT / "tests"):
                assert not (isinstance(node.func, ast.Name) and name in ("eval", "exec")), f"{path}:{node.lineno}"
                saves = name == "save_checkpoint"  # where it means that the optimizer is written too
                assert saves or words.get("weights_only", True), f"{path}:{node.lineno}: weights_only=False"


def test_public_names() -> None:
    import egovlpv2

    assert {*egovlpv2.__all__} <= {*dir(egovlpv2)}
    assert all(callable(getattr(egovlpv2, name)) for name in egovlpv2.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = egovlpv2.nothing


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, egovlpv2; assert not {'torch', 'lightning', 'jsonargparse'} & {*sys.modules}, 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = ("import sys; from egovlpv2.cli import usage; from egovlpv2.command.run import parse; usage()\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_matrix_names_tests_that_exist() -> None:
    names = next(node.value for node in ast.parse((ROOT / "tests" / "matrix.py").read_text()).body
                 if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CORE")
    assert all((ROOT / "tests" / name).exists() for name in ast.literal_eval(names))
