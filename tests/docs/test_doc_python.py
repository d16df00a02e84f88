"""The Python code in the documentation."""

import ast
from importlib import import_module
from inspect import signature

import pytest
from doc_pages import PAGES, ROOT, blocks

CODE = [(str(page.relative_to(ROOT)), block.text) for page in PAGES for block in blocks(page)
        if block.language == "python"]


@pytest.mark.parametrize(("page", "code"), CODE, ids=[f"{page}-{i}" for i, (page, _) in enumerate(CODE)])
def test_it_imports_what_exists_and_gives_arguments_that_exist(page: str, code: str) -> None:
    tree = ast.parse(code)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.name: getattr(import_module(node.module or ""), alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            keywords = {keyword.arg or "": None for keyword in node.keywords}
            signature(imported[node.func.id]).bind(*node.args, **keywords)


def test_losses_and_metrics_are_computed_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for _, code in CODE if "ego_nce" in code]
    exec(compile(code, "docs/python-api.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 2
