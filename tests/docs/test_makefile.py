"""The Makefile stays small, and refuses variables that it no longer has."""

import subprocess

import pytest
from doc_pages import ROOT


@pytest.mark.parametrize(("old", "now"), [("FEATURES", "features"), ("FRAMES", "recipe.frames"), ("NLQ_FILES", "root"),
                                          ("FRAME_RULE", "recipe.frame_rule"), ("QFVS_TESTS", "test_video")])
def test_a_removed_variable_is_refused_with_the_setting_of_today(old: str, now: str) -> None:
    ended = subprocess.run(["make", "-n", "help", f"{old}=x"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f'{old} was removed: give ARGS="--data.init_args.{now}=..." instead' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_it_stays_small() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120 and next(i for i, line in enumerate(lines) if line.startswith("help:")) <= 15
