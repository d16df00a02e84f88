"""A run on two nodes, interrupted once, is the uninterrupted run of one process: under SLURM and under torchrun."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from runs.slurm_cluster import Cluster, find_missing, free_ports, start_cluster, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.small_run import outcome
from training.test_killed_fits import EPOCHS, STEPS, arguments

STOPPED_AFTER = STEPS + 4  # steps, in the second epoch
PAIRS = 4  # rows of a step
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start runs in, as a clone of the repository with its environment is."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "conf").symlink_to(ROOT / "conf")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "egovlpv2").symlink_to(Path(sys.executable).with_name("egovlpv2"))
    return folder


@pytest.fixture(scope="module")
def one(folder: Path, toy: Path) -> dict[str, Any]:
    """The run of one process, whose batches are those of two."""
    subprocess.run([".venv/bin/egovlpv2", "fit", *configs("cpu"), "--data=runs.two_nodes.OrderOfTwo",
                    *options(toy, PAIRS), "--trainer.logger.init_args.name=one"], cwd=folder, env=environment(),
                   check=True)
    return results(folder / "runs" / "one")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if missing := find_missing():
        pytest.skip(f"SLURM is not installed: there is no {', '.join(missing)} (Debian's package is slurm-wlm)")
    with start_cluster(tmp_path / "slurm") as cluster:
        yield cluster


def configs(trainer: str) -> list[str]:
    """The configuration of cpu_nodes.slurm, with a trainer."""
    names = ("pretrain", "model/tiny", "data/toy", f"trainer/{trainer}", "toy/pretrain")
    return [f"--config=conf/{name}.yaml" for name in names]


def options(toy: Path, rows: int) -> list[str]:
    """Options of a small run whose processes take so many rows a step."""
    others = ("--config", "--data.init_args.batch_size", "--data.init_args.num_workers")
    kept = [option for option in arguments(toy, 100)[1:] if not option.startswith(others)]
    # Adam makes steps of one size of gradients that are rounding errors, such as those of the keys' biases.
    return [*kept, f"--data.init_args.batch_size={rows}", "--data.init_args.num_workers=1",
            "--model.init_args.optimizer.eps=1e-4"]


def waiting(rank: int) -> list[str]:
    return ["--trainer.callbacks+=runs.two_nodes.WaitForSignal", f"--trainer.callbacks.steps={STOPPED_AFTER - 1}",
            f"--trainer.callbacks.rank={rank}"]


def environment(**more: str) -> dict[str, str]:
    """Variables of a run whose nodes are all this machine."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_", "RANK"))}
    return found | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests"), "GLOO_SOCKET_IFNAME": "lo"} | more


def results(run: Path) -> dict[str, Any]:
    """What a run has left, after a look at how often each step was trained."""
    events = EventAccumulator(str(run), purge_orphaned_data=False).Reload()
    for tag in ("train/loss", "train/ego_nce", "train/mlm", "train/vtm"):
        assert sorted(event.step for event in events.Scalars(tag)) == list(range(STEPS * EPOCHS)), tag
    report = json.loads((run / "metrics.json").read_text())
    assert report["protocol"]["steps"] == STEPS * EPOCHS and report["protocol"]["epochs"] == EPOCHS
    return outcome(run) | {"metrics": report["metrics"]}


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[float, str]]:
    """Differences of two results, and where they are."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            yield from differences(one[key], other[key], f"{name} {key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for first, second in zip(one, other, strict=True):
            yield from differences(first, second, name)
    elif isinstance(one, str):
        assert one == other, name
    else:
        yield abs(one - other), name


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    largest, name = max(differences(one, two))
    print(f"largest difference: {largest:.1e}, of{name}")
    assert largest < 1e-5, name


def bring_time_limit_near(cluster: Cluster, job: str) -> None:
    """Leave a running job one to two minutes, so that SLURM sends its signal (90 s before, or up to 60 s earlier) soon.

    A limit is a whole number of minutes, and SLURM looks every 30 s whether a signal is due.
    """
    hours, minutes, _ = map(int, cluster.show(job)["RunTime"].split(":"))
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 2}")


def test_a_slurm_job_that_is_interrupted_once_is_the_run_of_one_process(cluster: Cluster, folder: Path, toy: Path,
                                                                        one: dict[str, Any]) -> None:
    job = cluster.call("sbatch", "--parsable", "conf/trainer/cpu_nodes.slurm", *options(toy, PAIRS // 2),
                       *waiting(rank=1), cwd=folder, env=environment(RUN="slurm", MASTER_ADDR="127.0.0.1")).strip()
    log = folder / f"slurm-{job}.out"
    try:
        wait_until(lambda: log.exists() and "waits for a signal" in log.read_text(), 300, "the job trains")
        bring_time_limit_near(cluster, job)
        wait_until(lambda: cluster.show(job)["Restarts"] == "1", 180, "it is queued again")
        wait_until(lambda: cluster.show(job)["JobState"] == "PENDING", 60, "it is pending")
        cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=60")  # or two minutes from now
        wait_until(lambda: cluster.show(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 300, "it ends")
    except TimeoutError as error:
        printed = log.read_text()[-5000:] if log.exists() else ""
        raise TimeoutError(f"{error}\n{cluster.show(job)}\n{printed}\n{cluster.logs()}") from error
    assert cluster.show(job)["JobState"] == "COMPLETED", log.read_text()
    assert (f"SIGUSR1: stopped after {STOPPED_AFTER} steps, in epoch 1; --ckpt_path last continues from "
            f"runs/slurm/checkpoints/last.ckpt; SLURM has queued job {job} again") in log.read_text()
    assert log.read_text().count("Restored all states from the checkpoint at runs/slurm/checkpoints/last.ckpt") == 1
    assert_equal(one, results(folder / "runs" / "slurm"))


def test_torchrun_that_is_interrupted_once_is_the_run_of_one_process(folder: Path, toy: Path, one: dict[str, Any]
                                                                     ) -> None:
    def start(*more: str) -> list[subprocess.Popen[str]]:
        (port,) = free_ports(1)
        return [subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
             "--master-addr=127.0.0.1", f"--master-port={port}", ".venv/bin/egovlpv2", "fit",
             *configs("cpu_nodes"), *options(toy, PAIRS // 2), "--trainer.logger.init_args.name=torchrun", *more],
            cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for rank in range(2)]

    nodes = start(*waiting(rank=0))
    for line in nodes[0].stdout:
        if "waits for a signal" in line:
            nodes[0].send_signal(signal.SIGTERM)
            break
    printed = [node.communicate(timeout=120)[0] for node in nodes]
    assert all(node.returncode for node in nodes)
    assert f"SIGTERM: stopped after {STOPPED_AFTER} steps, in epoch 1; --ckpt_path last continues" in printed[0]
    assert "stopped after" not in printed[1]
    nodes = start("--ckpt_path=last")
    printed = [node.communicate(timeout=300)[0] for node in nodes]
    assert not any(node.returncode for node in nodes), printed
    assert_equal(one, results(folder / "runs" / "torchrun"))
