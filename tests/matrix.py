"""Lint, the fast core of the tests and a fit of three steps, in an environment for each Python at hand.

`make test-matrix` runs it: `python tests/matrix.py [NAME ...]`. A name is a version such as `3.12`, which gets the
newest dependencies, or `lowest`, which gets the lowest direct ones that setup.cfg allows (torch aside, for its size).
Without names, all that it finds. It needs nothing but Python, and keeps the environments, 6 GB each, in `.venv-matrix/`
for the next time (not with `--discard`).
"""

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-matrix"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
LOWEST, LOWEST_ON = "lowest", ("3.11", "3.12", "3.10", "3.13")  # of these Pythons the first that there is
CORE = ("video", "features", "search", "serve", "data_modules", "model", "checkpoints", "io", "command",
        "test_layout.py", "test_conf.py", "test_cli.py", "test_earlier_files.py")
SHOWN = ("av", "torch", "lightning", "transformers", "timm", "numpy", "pandas", "jsonargparse")
SMALL_WORLD = ("--train-videos", "8", "--val-videos", "5", "--test-videos", "5", "--val-questions", "6",
               "--test-questions", "6", "--shortest-video", "18", "--longest-video", "20")


def find_pythons() -> dict[str, str]:
    """Interpreters by version, from `PATH` and from pyenv's folder."""
    found: dict[str, str] = {}
    pyenv = Path.home() / ".pyenv" / "versions"
    for version in VERSIONS:
        places = [*sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))), shutil.which(f"python{version}"),
                  sys.executable, shutil.which("python3")]
        for place in filter(None, places):
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            run = subprocess.run([place, "-c", code], capture_output=True, text=True)
            if run.returncode == 0 and run.stdout.strip() == version:  # pyenv's shims answer for what is not there
                found.setdefault(version, place)
    return found


def lowest_versions() -> list[str]:
    """The direct dependencies of setup.cfg, each held at its lower bound, but for torch."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split() + setup["options.extras_require"]["dev"].split()
    pairs = [re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", line) for line in lines]
    assert all(pairs), "every dependency has a lower bound"
    return [f"{pair[1]}=={pair[2]}" for pair in pairs if pair and pair[1] != "torch"]


def make_environment(name: str, python: str) -> Path:
    """The `bin` folder of an environment with this package; one that is up to date is kept."""
    folder = HOME / name
    stamp, wanted = folder / "setup.cfg", (ROOT / "setup.cfg").read_text()
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        call([python, "-m", "venv", str(folder)])
        command = [str(folder / "bin" / "pip"), "install", "--quiet", "--editable", f"{ROOT}[dev]"]
        if name == LOWEST:
            (folder / "lowest.txt").write_text("\n".join(lowest_versions()) + "\n")
            command += ["--constraint", str(folder / "lowest.txt")]
        call(command)
        stamp.write_text(wanted)
    return folder / "bin"


def call(command: list[str], **variables: str) -> None:
    """Run a command from the project's folder; its failure ends the run of this environment."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=True)


def check(name: str, python: str) -> None:
    """Lint, test and fit in one environment."""
    tools = make_environment(name, python)
    versions = f"import importlib.metadata as m; print(*(f'{{p}} {{m.version(p)}}' for p in {SHOWN}), sep=', ')"
    call([str(tools / "python"), "-c", versions])
    call([str(tools / "ruff"), "check", "."])
    call([str(tools / "pytest"), "-n", "2", "--disable-warnings", *(f"tests/{part}" for part in CORE)])
    toy, runs = HOME / name / "toy", HOME / name / "runs"
    call([str(tools / "egovlpv2"), "toy-data", "--out", str(toy), *SMALL_WORLD])
    configs = [f"--config=conf/{part}.yaml" for part in ("pretrain", "model/tiny", "data/toy", "trainer/cpu",
                                                         "toy/pretrain")]
    call([str(tools / "egovlpv2"), "fit", *configs, f"--trainer.logger.init_args.save_dir={runs}",
          "--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1",
          "--trainer.limit_test_batches=1"], EGO_TOY=str(toy))


def main() -> None:
    """Check every environment that was asked for, and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(VERSIONS)} or {LOWEST}; all if not given")
    parser.add_argument("--found", action="store_true", help="pass over a Python that isn't there")
    parser.add_argument("--discard", action="store_true", help="remove each environment when it is checked")
    args = parser.parse_args()
    names, pythons = args.names, find_pythons()
    if unknown := set(names).difference(VERSIONS, [LOWEST]):
        parser.error(f"{min(unknown)!r} is not one of {', '.join(VERSIONS)}, {LOWEST}")
    print("interpreters:", ", ".join(f"{version} ({path})" for version, path in pythons.items()) or "none")
    print("not found:", ", ".join(version for version in VERSIONS if version not in pythons) or "none", flush=True)
    if low := next((version for version in LOWEST_ON if version in pythons), None):
        pythons[LOWEST] = pythons[low]
    failed = [name for name in names if name not in pythons and not args.found]
    for name in names or list(pythons):
        if name not in pythons:
            continue
        before = time.monotonic()
        try:
            check(name, pythons[name])
            print(f"== {name}: passed in {time.monotonic() - before:.0f} s", flush=True)
        except subprocess.CalledProcessError as error:
            print(f"== {name}: failed: {' '.join(map(str, error.cmd))}", flush=True)
            failed.append(name)
        if args.discard:
            shutil.rmtree(HOME / name, ignore_errors=True)
    if failed:
        sys.exit(f"failed, or no such Python here: {', '.join(failed)}")


if __name__ == "__main__":
    main()
