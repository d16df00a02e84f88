"""A SLURM job that queues itself again, whichever process its signal reaches, and whatever the run does then."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from runs.slurm_cluster import free_ports
from training.small_run import STEPS, RowsDataModule, fit, outcome
from training.test_fit_command import fit as fit_command
from training.test_resume import whole  # noqa: F401 (a fixture)
from training.test_stops import Send, stop

from egovlpv2.command.signals import STOPS
from egovlpv2.training.checkpoint_io import read_checkpoint
from egovlpv2.training.slurm import requeueing_on_signal


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Restore the handlers of signals that a run ignores once its job is queued again."""
    before = {number: signal.getsignal(number) for number in (*STOPS, signal.SIGUSR1, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Job 17 of one task; the file will hold what `scontrol` is called with."""
    for name, value in (("JOB_ID", "17"), ("NTASKS", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0"),
                        ("JOB_NAME", "train")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    # SLURM ends the processes of a job that is queued again, this one among them.
    scontrol.write_text(f"#!/bin/sh\n/bin/sleep 0.5\necho \"$@\" >> {tmp_path}/asked\nkill -TERM $PPID $$\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent))
    return tmp_path / "asked"


@pytest.mark.parametrize("found", [True, False])
def test_the_signal_saves_and_queues_the_job_again(found: bool, job: Path, whole: dict, tmp_path: Path,  # noqa: F811
                                                   monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    if not found:
        monkeypatch.setenv("PATH", str(tmp_path))
    send = Send("on_train_batch_start", 3, signal.SIGUSR1)
    assert stop(tmp_path / "run", send, plugins=[SLURMEnvironment()]) == (128 + signal.SIGUSR1, 3)
    if found:
        assert job.read_text() == "requeue 17\n"
    assert ("SLURM has queued job 17 again" if found else "`scontrol requeue 17` failed") in capsys.readouterr().err
    fit(tmp_path / "run", 100, plugins=[SLURMEnvironment()])
    assert outcome(tmp_path / "run") == whole


def _fit_as(rank: int, folder: Path) -> None:
    for name in ("PROCID", "LOCALID"):
        os.environ[f"SLURM_{name}"] = str(rank)
    send = [Send("on_train_batch_start", 3, signal.SIGUSR1)] if rank else []
    fit(folder, 100, *send, data=RowsDataModule(4 * STEPS), plugins=[SLURMEnvironment()], devices=2, strategy="ddp")


def test_a_signal_that_has_reached_one_process_queues_the_job_of_all_again(job: Path, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch,
                                                                           capfd: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    for name, value in (("SLURM_NTASKS", "2"), ("SLURM_NTASKS_PER_NODE", "2"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)
    processes = [multiprocessing.get_context("fork").Process(target=_fit_as, args=(rank, tmp_path / "run"))
                 for rank in range(2)]
    for process in processes:
        process.start()
    processes[1].join(60)
    assert job.read_text() == "requeue 17\n"  # srun would end the first process as soon as the second has ended
    processes[0].join(60)
    assert [process.exitcode for process in processes] == [128 + signal.SIGUSR1] * 2
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert capfd.readouterr().err.count("stopped after 3 steps") == 1


@pytest.mark.parametrize("environment, first, asked", [
    (SLURMEnvironment, True, True), (SLURMEnvironment, False, False), (LightningEnvironment, True, None),
])
def test_outside_of_training_the_first_process_queues_the_job_again(
        environment: type[ClusterEnvironment], first: bool, asked: bool | None, job: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    connector = SimpleNamespace(cluster_environment=environment())
    trainer: Trainer = SimpleNamespace(_accelerator_connector=connector, is_global_zero=first)
    with requeueing_on_signal(trainer):
        if asked is None:  # not a job
            assert signal.getsignal(signal.SIGUSR1) is before
            return
        worker = os.fork()
        if not worker:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 3 and not job.exists()
        with pytest.raises(SystemExit) if first else nullcontext():
            os.kill(os.getpid(), signal.SIGUSR1)
    assert job.exists() == asked == ("another checkpoint; SLURM has queued job 17 again" in capsys.readouterr().err)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_run_that_was_queued_again_goes_on_from_its_own_checkpoint(toy: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    first, then = tmp_path / "first", tmp_path / "then"
    short = ("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1")
    fit_command(toy, first, *short)
    command = (*short[:2], "--trainer.max_epochs=2", f"--ckpt_path={first}/checkpoints/last.ckpt")
    fit_command(toy, then, *command)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    fit_command(toy, then, *command)
    used = json.loads((then / "metrics.json").read_text())
    assert used["protocol"]["steps"] == 4 and not (tmp_path / "then.1").exists()
