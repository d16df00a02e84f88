"""The package is what setup.cfg says, and imports point one way."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"src": "egovlpv2", "conf": "egovlpv2.conf", "data_modules": "egovlpv2.data_modules",
           "tasks": "egovlpv2.tasks"}
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
# `src` may name these in strings alone; tasks and data modules meet in conf/.
FORBIDDEN = {
    "conf": ("egovlpv2",),
    "src": ("egovlpv2.tasks", "egovlpv2.data_modules"),
    "tasks": ("egovlpv2.data_modules",),
    "data_modules": ("egovlpv2.tasks",),
}


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
        assert Path(module.__file__).parent == ROOT / folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    names = imports(path)
    # `import src` would make a second copy of every class.
    assert not {n.split(".")[0] for n in names} & {"src", "tasks", "data_modules", "tests"}
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    assert not [n for n in names if n.startswith(forbidden)]


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

    for name in ("load_backbone", "Backbone", "BackboneConfig", "Index", "read_clip"):
        assert callable(getattr(egovlpv2, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = egovlpv2.nothing
