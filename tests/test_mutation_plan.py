"""The plan of mutation testing names modules and tests that exist."""

import json
from pathlib import Path

import pytest
from helpers import ROOT

MUTATION = Path(__file__).parent / "mutation"


@pytest.mark.parametrize("name", ["plan.json", "equivalents.json"])
def test_modules_exist(name: str) -> None:
    for path in json.loads((MUTATION / name).read_text()):
        assert (ROOT / path).exists(), path


def test_tests_exist() -> None:
    for tests in json.loads((MUTATION / "plan.json").read_text()).values():
        assert tests and all((ROOT / test.split("::")[0]).exists() for test in tests), tests


def test_equivalents_are_of_lines_that_are_there() -> None:
    for path, changes in json.loads((MUTATION / "equivalents.json").read_text()).items():
        lines = {line.strip() for line in (ROOT / path).read_text().splitlines()}
        stale = [change for change in changes if not {old[2:] for old in change.splitlines() if old[0] == "-"} <= lines]
        assert not stale, f"{path}: {stale[0]}"
