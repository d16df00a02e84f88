"""Build the wheel and the sdist, install the wheel alone in a new environment, and run it away from the repository.

`python tests/wheel.py` needs the environment that `make setup` makes. The new one takes the dependencies of that one
where they are, through a `.pth` file, and this package from the wheel alone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL_WORLD = ["--train-videos", "8", "--val-videos", "5", "--test-videos", "5", "--val-questions", "6",
               "--test-questions", "6", "--shortest-video", "18", "--longest-video", "20"]


def call(command: list[str], cwd: Path, **variables: str) -> str:
    """Run a command and return its output; its failure ends this script."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed with exit code {done.returncode}:\n{done.stdout}")
    return done.stdout


def install(folder: Path) -> Path:
    """Install the wheel into a new environment; returns its `bin` folder."""
    tools = ROOT / ".venv" / "bin"
    call([str(tools / "python"), "-m", "build", "--outdir", str(folder / "dist"), str(ROOT)], folder)
    wheel, sdist = next(folder.glob("dist/*.whl")), next(folder.glob("dist/*.tar.gz"))
    print(f"built {wheel.name} ({wheel.stat().st_size / 1e3:.0f} kB) and {sdist.name}", flush=True)
    call([str(tools / "python"), "-m", "venv", str(folder / "venv")], folder)
    own = folder / "venv" / "bin"
    call([str(own / "pip"), "install", "--quiet", "--no-deps", str(wheel)], folder)
    site = call([str(tools / "python"), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], folder)
    there = call([str(own / "python"), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], folder)
    (Path(there.strip()) / "dependencies.pth").write_text(site)  # its own .pth files aren't followed
    return own


def main() -> None:
    """Build, install and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = install(folder)
        place = call([str(own / "python"), "-c", "import egovlpv2; print(egovlpv2.__file__)"], folder)
        assert place.startswith(str(folder)), place
        egovlpv2 = str(own / "egovlpv2")
        print(call([egovlpv2, "configs", "--out", "conf"], folder).splitlines()[0])
        call([egovlpv2, "toy-data", "--out", "data/toy", *SMALL_WORLD], folder)
        configs = [f"--config=conf/{part}.yaml" for part in ("pretrain", "model/tiny", "data/toy", "trainer/cpu",
                                                             "toy/pretrain")]
        print(call([egovlpv2, "fit", *configs, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3",
                    "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"], folder).strip()[-1500:])
        assert (folder / "runs" / "pretrain" / "metrics.json").is_file()


if __name__ == "__main__":
    main()
