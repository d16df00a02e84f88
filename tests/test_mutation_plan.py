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
