"""20 kills of each command that writes: the same command again ends as if nothing had been.

Each runs in a fork of this process, where all is imported, so that moments are drawn from its work alone.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from features.test_extract import write
from forked import Forked, run

from egovlpv2.cli import main as cli

pytestmark = pytest.mark.slow
KILLS = 20
WINDOWS = ("--fps", "10", "--window", "8", "--stride", "2", "--batch-size", "2")
WORLD = ("--num-workers", "1", "--train-videos", "1", "--val-videos", "5", "--test-videos", "5", "--val-questions", "2",
         "--test-questions", "2", "--shortest-video", "18", "--longest-video", "20", "--chunk-seconds", "8",
         "--fps", "1")


@pytest.fixture
def command(request: pytest.FixtureRequest, weights: Path, tmp_path: Path) -> tuple[list[object], Path]:
    """The arguments of the command that the test is of, and the folder that it writes to."""
    name, out, asked = request.param, tmp_path / "out", tmp_path / "asked.json"
    for i, video in enumerate("abc"):
        write(tmp_path / "in" / f"{video}.mp4", 7 * i, 60)
    asked.write_text('{"a": ["w1 w2", "w3"], "b": ["w4"], "c": ["w5 w6 w7"]}')
    model = ["--weights", weights, "--device", "cpu"]
    if name == "fuse":
        cli(list(map(str, ["extract", tmp_path / "in", "--kind", "trunk", "--out", tmp_path / "trunk", *model, *WINDOWS,
                           "--num-workers", "0"])))
    arguments = {
        "extract": [tmp_path / "in", "--out", out, *model, *WINDOWS, "--num-workers", "1"],
        "fuse": [tmp_path / "trunk", "--out", out, "--queries", asked, *model, "--batch-size", "2"],
        "index": [tmp_path / "in", "--out", out, *model, "--every", "0.2", "--batch-size", "2", "--num-workers", "0"],
        "convert": [weights, out / "a.safetensors"],
        "summarize": [tmp_path / "in" / "a.mp4", "--query", "w1 w2", "--out", out / "a.mp4", *model,
                      "--num-workers", "0"],
        "attend": [tmp_path / "in" / "a.mp4", "--text", "w1 w2", "--out", out / "a.png", *model],
        "toy-data": ["--out", out, *WORLD],
    }
    return [name, *arguments[name]], out


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, and where links lead."""
    return {str(path.relative_to(folder)): os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def dies_at(replacement: int) -> Callable[[], None]:
    """What makes a process die just before (even numbers) or just after (odd) a file of it gets its name."""
    replace, calls = os.replace, []

    def die(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if len(calls) == replacement // 2 and replacement % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(calls) == replacement // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(target)

    def patch() -> None:
        os.replace = die  # type: ignore[assignment]

    return patch


@pytest.mark.parametrize("command", ["extract", "fuse", "index", "convert", "summarize", "attend", "toy-data"],
                         indirect=True)
def test_killed_at_any_moment_and_started_again(command: tuple[list[object], Path], toy: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGO_TOY", str(toy))
    monkeypatch.chdir(tmp_path)
    arguments, out = command
    cli(list(map(str, arguments)))  # in this process: what it imports late is there in the forks
    whole, log = contents(out), tmp_path / "log"
    shutil.rmtree(out)
    began = time.monotonic()
    assert run(arguments, log)[0] == 0 and contents(out) == whole
    taken, draw, hit, drafts = time.monotonic() - began, random.Random(str(arguments[0])), 0, 0
    for kill in range(KILLS):
        shutil.rmtree(out)
        process = Forked(arguments, log, dies_at(kill // 3) if kill % 3 == 0 else lambda: None)
        if kill % 3:
            time.sleep(draw.uniform(0, taken))
            process.send(signal.SIGKILL)
        hit += process.wait() == -signal.SIGKILL
        drafts += bool(set(contents(out)) - set(whole)) if out.exists() else 0
        code, printed = run(arguments, log)
        assert code == 0 and "Traceback" not in printed, f"kill {kill}: {printed}"
        found = contents(out)
        assert sorted(found) == sorted(whole), f"kill {kill}"
        assert not [name for name in whole if found[name] != whole[name]], f"kill {kill}"
    print(f"{arguments[0]}: {hit} of {KILLS} kills within {taken:.2f} s of work, {drafts} left drafts")
    assert hit > 3
