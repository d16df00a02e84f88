"""SLURM jobs that queue themselves again before their time limit."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment

from egovlpv2.command.signals import end


def was_requeued() -> bool:
    """Return True, on all processes, if SLURM has queued this job again for whatever reason.

    The count of torchrun's restarts would not do: it differs between the nodes.
    """
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def may_be_requeued() -> bool:
    """Return True in a job of SLURM, which may queue it again whenever it ends."""
    return "SLURM_JOB_ID" in os.environ


def requeue_signals(trainer: Trainer) -> tuple[int, ...]:
    """Get SLURM's requeue signal, if automatic requeueing is enabled."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
        return (environment.requeue_signal,)
    return ()


def requeue() -> str:
    """Queue this SLURM job again, and return a message about the result."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
    name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    # SLURM ends the processes of a job that it queues again; `scontrol` inherits this, and would else seem to fail.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        done = subprocess.run(["scontrol", "requeue", name], check=False).returncode == 0
    except FileNotFoundError:
        done = False
    finally:
        signal.signal(signal.SIGTERM, before)
    return f"SLURM has queued job {name} again" if done else f"`scontrol requeue {name}` failed: queue it again"


@contextmanager
def requeueing_on_signal(trainer: Trainer) -> Iterator[None]:
    """Queue the job again and end when its signal comes outside of training, where no checkpoint is due.

    The first process does it, and SLURM ends the others. During training, `LastCheckpoint` handles the signal.
    Lightning would write a checkpoint at any moment; it leaves a signal alone that has a handler.
    """
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        # SLURM signals the workers of a loader too.
        if os.getpid() == process and trainer.is_global_zero:
            end(number, f"stopped outside of training, without another checkpoint; {requeue()}")

    before = {number: signal.signal(number, handle) for number in requeue_signals(trainer)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
