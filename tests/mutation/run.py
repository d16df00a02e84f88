"""Mutation testing: changes the code in small ways and reports the changes that no test notices.

    pip install mutmut                                  # not among the package's dependencies; its operators are used
    python tests/mutation/run.py src/losses.py          # all mutants of a module
    python tests/mutation/run.py --sample 60 --out mutants.json src/model/*.py src/optim.py

One process imports torch and everything else from outside once and forks for each mutant; the fork loads the changed
module in place of the original and runs the tests that `plan.json` names for it until one fails. A mutant that fails
a test, crashes or exceeds the time limit is killed. Survivors that compute the same as the original are listed with
the reason in `equivalents.json` beside this file and are counted apart; every other survivor asks for a test.
Not part of the test suite: a module takes minutes.
"""

import argparse
import functools
import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
import torch.multiprocessing
from mutants import Mutant, make_mutants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OWN = ("egovlpv2", "tests", "conftest", "helpers", "test_", "__")  # names of modules that every fork imports anew


class MutantLoader(SourceFileLoader):
    """Loads a module from a mutant's text instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class MutantFinder:
    """Finds one module, the mutant."""

    def __init__(self, path: str, source: str) -> None:
        self.name, self.path, self.source = module_name(path), str(ROOT / path), source

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path,
                                                      loader=MutantLoader(fullname, self.path, self.source))


def module_name(path: str) -> str:
    """`src/model/heads.py` -> `egovlpv2.model.heads`."""
    parts = Path(path).with_suffix("").parts
    return ".".join(("egovlpv2", *(parts[1:] if parts[0] == "src" else parts)))


def in_a_fork(job: Any, limit: float) -> str:
    """Runs `job()` in a process of its own.

    Returns:
        `passed` where it returns 0, else `failed`, `crashed` or `timeout`.
    """
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os._exit(job())
    deadline, done, status = time.monotonic() + limit, 0, 0
    while not done and time.monotonic() < deadline:
        time.sleep(0.02)
        done, status = os.waitpid(pid, os.WNOHANG)
    try:
        os.killpg(pid, signal.SIGKILL)  # and what it has started
    except ProcessLookupError:
        pass
    if not done:
        os.waitpid(pid, 0)
        return "timeout"
    if os.WIFSIGNALED(status):
        return "crashed"
    return "passed" if os.WEXITSTATUS(status) == 0 else "failed"


def run_tests(tests: list[str], scratch: Path, finder: MutantFinder | None = None, loaded: Path | None = None) -> int:
    """Runs the tests in this process, quietly, with a mutant or without.

    Args:
        tests: Arguments of pytest.
        scratch: Folder for temporary files and the output, `output.txt`.
        finder: Finds the mutant.
        loaded: File that gets the names of the modules that were imported.
    """
    output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    if finder is not None:
        sys.meta_path.insert(0, finder)
    # Forked processes have the mutant too.
    torch.multiprocessing.spawn = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'temp'}", *tests]))
    if loaded is not None:
        loaded.write_text(json.dumps(sorted(sys.modules)))
    return code


def warm_up(tests: list[str], scratch: Path) -> float:
    """Imports here what the tests import from outside, and returns the seconds that they take then."""
    for first in (True, False):
        began = time.monotonic()
        end = in_a_fork(lambda: run_tests(tests, scratch, loaded=scratch / "loaded.json"), limit=1200)
        if end != "passed":
            last = "\n".join((scratch / "output.txt").read_text().splitlines()[-15:])
            raise ValueError(f"without a mutant the tests {' '.join(tests)} {end}:\n{last}")
        if first:
            for name in json.loads((scratch / "loaded.json").read_text()):
                if not name.startswith(OWN):
                    try:
                        importlib.import_module(name)
                    except (ImportError, ValueError):  # made by hand in sys.modules
                        continue
            gc.collect()
            gc.freeze()  # else each fork's first collection would copy all of this process's memory
    return time.monotonic() - began


def tests_of(path: str) -> list[str]:
    """The tests that should notice a change of a module: the longest entry of the plan that its path begins with."""
    plan = json.loads((HERE / "plan.json").read_text())
    entries = [entry for entry in plan if path.startswith(entry)]
    if not entries:
        raise ValueError(f"tests/mutation/plan.json names no tests for {path}: add an entry")
    return plan[max(entries, key=len)]


def try_module(path: str, size: int, seed: int, scratch: Path, earlier: dict[str, Any] | None = None
               ) -> dict[str, Any]:
    """Tries a module's mutants: counts of each end, and the survivors.

    Args:
        path: The module, from the repository's root.
        size: How many mutants to draw at most.
        seed: Of the drawing.
        scratch: Folder for temporary files.
        earlier: What this has returned before for the same module, size and seed: only its survivors are tried again.
    """
    tests = tests_of(path)
    reasons = json.loads((HERE / "equivalents.json").read_text()).get(path, {})
    seconds = warm_up(tests, scratch)
    drawn, possible = make_mutants(ROOT / path, size, seed)
    again = None if earlier is None else {survivor["change"] for survivor in earlier["survivors"]}
    chosen = [mutant for mutant in drawn if again is None or mutant.change in again]
    print(f"{path}: {len(chosen)} of {possible} mutants; the tests take {seconds:.1f} s", flush=True)
    ends: Counter[str] = Counter({} if earlier is None else earlier["ends"] | {"survived": 0})
    survivors = []
    for mutant in chosen:
        end = "equivalent" if mutant.change in reasons else try_mutant(path, mutant, tests, 20 + 5 * seconds, scratch)
        ends[end] += 1
        if end == "survived":
            survivors.append({"line": mutant.line, "change": mutant.change})
            print(f"{path}:{mutant.line}\n{mutant.change}", flush=True)
    killed = ends["failed"] + ends["crashed"] + ends["timeout"]
    share = round(killed / max(killed + ends["survived"], 1), 4)
    print(f"{path}: {killed} killed, {ends['equivalent']} equivalent, {ends['survived']} survived: {share:.1%}",
          flush=True)
    return {"possible": possible, "tried": ends.total(), "killed": killed, "share": share, "ends": dict(ends),
            "survivors": survivors}


def try_mutant(path: str, mutant: Mutant, tests: list[str], limit: float, scratch: Path) -> str:
    """How a mutant ends: `survived`, or `failed`, `crashed` or `timeout`."""
    finder = MutantFinder(path, mutant.source)
    end = in_a_fork(lambda: run_tests(tests, scratch, finder), limit)
    shutil.rmtree(scratch / "temp", ignore_errors=True)
    return "survived" if end == "passed" else end


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing: see the head of this file.")
    parser.add_argument("modules", nargs="+", help="paths from the repository's root, such as src/losses.py")
    parser.add_argument("--sample", type=int, default=1_000_000, help="mutants of each module; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--out", type=Path, help="JSON file for the results; other modules that are in it stay")
    parser.add_argument("--again", action="store_true", help="try the survivors in --out alone, same sample and seed")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "tests"))
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in args.modules:
            earlier = results[path] if args.again else None
            results[path] = try_module(path, args.sample, args.seed, Path(scratch), earlier)
            if args.out:
                args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
