"""The project on a GPU, in at most 8 minutes: `make gpu-check`.

Each part runs in a process of its own with a limit of its own: one that fails or takes too long leaves the others. All
figures go to `gpu-check.json` and, as one table, to the screen. It needs no network, and no package that a machine with
torch, timm, transformers and lightning lacks but the wheels that `wheels.sh` gathers. With `--small` the same runs on a
CPU, in tiny sizes.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "timm", "lightning", "av")
_SLACK = 10  # how much longer the small sizes may take, on a CPU that others use too
_TAIL = 15  # lines of the log of a part that has failed


class Part(NamedTuple):
    """A part of the check."""

    limit: int  # seconds
    command: tuple[str, ...]  # of Python; {device}, {out} and {size} are filled in


_OWN = str(HERE / "parts.py")
PARTS = {
    "tests": Part(110, ("-m", "pytest", "-m", "gpu", str(HERE), "-p", "no:cacheprovider", "--junitxml={out}.xml")),
    "step": Part(200, (_OWN, "step", "{device}", "{size}", "{out}.json")),
    "model": Part(80, (_OWN, "model", "{device}", "{size}", "{out}.json")),
    "toy": Part(70, (_OWN, "toy", "{device}", "{size}", "{out}.json")),
}


def place_package(target: Path) -> None:
    """Make `egovlpv2` importable from a folder by links to its source."""
    package = target / "egovlpv2"
    package.mkdir(parents=True)
    for path in [*(ROOT / "src").iterdir(), *(ROOT / name for name in ("data_modules", "tasks", "conf"))]:
        (package / path.name).symlink_to(path)


def make_importable(wheels: Path | None, target: Path) -> None:
    """Give this process and those that it starts the wheels, the package and the tests' own modules."""
    target.mkdir()
    if wheels is not None:
        files = sorted(map(str, wheels.glob("*.whl")))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
                        "--target", str(target), *files], check=True)
    if importlib.util.find_spec("egovlpv2") is None:
        place_package(target)
    sys.path[:0] = places = [str(target), str(ROOT / "tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def facts(device: str, small: bool) -> dict[str, Any]:
    """Device, driver, versions and date."""
    import torch

    from egovlpv2.bench.measure import device_name

    driver = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    return {"device": device_name(torch.device(device)), "driver": driver, "python": sys.version.split()[0],
            **{name: version(name) for name in PACKAGES}, "size": "small" if small else "full",
            "date": time.strftime("%Y-%m-%d %H:%M")}


def run(command: list[str], limit: int, log: Path) -> str:
    """Run a part and end all of its processes; return its outcome."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
            return "ok" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            return f"ended after its limit of {limit} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def read_figures(name: str, file: Path) -> list[dict[str, Any]]:
    """The figures that a part has left, also one that was ended before it was done."""
    if file.with_suffix(".xml").is_file():
        suite = ElementTree.parse(file.with_suffix(".xml")).getroot().find("testsuite")
        assert suite is not None, "pytest writes one suite"
        counts = {what: int(suite.get(what, 0)) for what in ("tests", "failures", "errors", "skipped")}
        passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
        return [{"part": name, "what": what, "value": value, "unit": "tests", "bound": "", "ratio": None}
                for what, value in (("passed", passed), ("skipped", counts["skipped"]),
                                    ("failed", counts["failures"] + counts["errors"]))]
    return json.loads(file.read_text())["figures"] if (file := file.with_suffix(".json")).is_file() else []


def show(report: dict[str, Any]) -> str:
    """The table of all figures, and a line for each part."""
    from egovlpv2.bench.run import Figure, table

    lines = [f"{part['name']:<8}{part['seconds']:>5.0f} s  {part['outcome']}" for part in report["parts"]]
    known = ", ".join(f"{name} {value}" for name, value in report.items() if isinstance(value, str) and value)
    return "\n".join([table([Figure(**figure) for figure in report["figures"]]), "", *lines, known])


def check(options: argparse.Namespace) -> bool:
    """Run the parts and write what they find after each; return True if none failed."""
    size = "small" if options.small else "full"
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = facts(options.device, options.small) | {"parts": [], "figures": []}
    for name in options.parts:
        for left in out.glob(f"{name}.*"):
            left.unlink()
        values = {"device": options.device, "out": str(out / name), "size": size}
        command = [sys.executable, *(word.format(**values) for word in PARTS[name].command)]
        limit = PARTS[name].limit * (_SLACK if options.small else 1)
        print(f"{name} (at most {limit} s)", flush=True)
        begin = time.monotonic()
        outcome = run(command, limit, out / f"{name}.log")
        report["parts"].append({"name": name, "seconds": round(time.monotonic() - begin, 1), "outcome": outcome})
        report["figures"] += read_figures(name, out / name)
        (out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
        if outcome != "ok":
            print(f"{outcome}:", *(out / f"{name}.log").read_text().splitlines()[-_TAIL:], sep="\n  ", flush=True)
    print(f"\n{show(report)}\nwritten: {options.out / 'gpu-check.json'}")
    return all(part["outcome"] == "ok" for part in report["parts"])


def main() -> None:
    """Run the check; the exit code is 1 if a part failed."""
    parser = argparse.ArgumentParser(description="the project on a GPU, in at most 8 minutes")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU, to test this check")
    parser.add_argument("--device", help="cuda, or cpu with --small")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder of the JSON and the logs")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="some of the parts")
    options = parser.parse_args()
    options.device = options.device or ("cpu" if options.small else "cuda")
    if options.device == "cpu":
        os.environ["EGOVLPV2_GPU_TESTS_ON"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        make_importable(options.wheels, Path(folder, "site"))
        import torch

        if options.device != "cpu" and not torch.cuda.is_available():
            sys.exit("gpu-check: there is no CUDA device here: --small runs the same on the CPU, in tiny sizes")
        sys.exit(not check(options))


if __name__ == "__main__":
    main()
