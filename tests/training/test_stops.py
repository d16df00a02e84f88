"""A signal ends a run between two steps, with a checkpoint, one line and its exit code."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from training.small_run import EPOCHS, STEPS, fit, outcome
from training.test_resume import whole  # noqa: F401 (a fixture)

from egovlpv2.command.signals import STOPS, ending_on_signals, leave_in_child
from egovlpv2.training.checkpoint_io import WholeCheckpointIO, read_checkpoint


class Send(Callback):
    """Sends this process a signal in the n-th call of a hook, and then does something else."""

    def __init__(self, hook: str, at: int, number: int, then: Any = None) -> None:
        self.left = at

        def count(*_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)
                if then is not None:
                    raise then

        setattr(self, hook, count)


def stop(folder: Path, send: Send, **options: Any) -> tuple[int, int]:
    """Run up to a signal: the exit code, and how many steps the last checkpoint has."""
    with pytest.raises(SystemExit) as caught:
        fit(folder, 100, send, **options)
    return caught.value.code, read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_after_its_step(number: int, code: int, whole: dict, tmp_path: Path,  # noqa: F811
                                            capsys: pytest.CaptureFixture[str]) -> None:
    folder, handlers = tmp_path / "run", [signal.getsignal(number) for number in STOPS]
    assert stop(folder, Send("on_train_batch_start", 3, number)) == (code, 3)
    assert [signal.getsignal(number) for number in STOPS] == handlers
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("egovlpv2: ")]
    assert len(lines) == 1 and "stopped after 3 steps, in epoch 0; --ckpt_path last continues" in lines[0]
    fit(folder, 100)
    assert outcome(folder) == whole


@pytest.mark.parametrize("hook, at, steps", [
    ("on_validation_batch_start", 1, STEPS), ("on_validation_end", 1, STEPS), ("on_train_batch_end", STEPS, STEPS),
    ("on_train_epoch_end", 2, 2 * STEPS), ("on_train_epoch_start", 2, STEPS), ("on_train_batch_end", 8, 8),
    ("on_train_end", 1, EPOCHS * STEPS),
])
def test_a_signal_at_any_time_leaves_a_run_that_goes_on(hook: str, at: int, steps: int, whole: dict,  # noqa: F811
                                                        tmp_path: Path) -> None:
    assert stop(tmp_path / "run", Send(hook, at, signal.SIGTERM)) == (143, steps)
    fit(tmp_path / "run", 100)
    assert outcome(tmp_path / "run") == whole


def test_more_signals_while_it_saves_tear_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  whole: dict) -> None:  # noqa: F811
    save = WholeCheckpointIO.save_checkpoint

    def interrupted(self: WholeCheckpointIO, checkpoint: dict[str, Any], path: str, storage_options: Any = None
                    ) -> None:
        monkeypatch.setattr("egovlpv2.command.signals.SAME_STOP", -1.0)  # as if seconds had passed
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", interrupted)
    assert stop(tmp_path / "run", Send("on_train_batch_end", 4, signal.SIGTERM)) == (143, 4)
    monkeypatch.undo()
    fit(tmp_path / "run", 100)
    assert outcome(tmp_path / "run") == whole


def test_a_second_signal_seconds_later_ends_a_run_within_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    monkeypatch.setattr("egovlpv2.command.signals.SAME_STOP", -1.0)
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path / "run", 2, Send("on_train_batch_start", 4, signal.SIGINT),
            Send("on_train_batch_start", 4, signal.SIGINT))
    assert caught.value.code == 130
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_an_error_that_the_signal_has_caused_does_not_hide_it(tmp_path: Path) -> None:
    send = Send("on_train_step_end", 2, signal.SIGTERM, then=RuntimeError("DataLoader worker (pid 7) is killed"))
    before = signal.getsignal(signal.SIGTERM)
    assert stop(tmp_path / "run", send) == (143, 2)
    signal.signal(signal.SIGTERM, before)  # the process ends at once: Lightning's own handler stays


def test_a_loaders_workers_outlive_all_but_the_signals_that_end_them() -> None:
    for number, status in ((signal.SIGINT, 3), (signal.SIGUSR1, 3), (signal.SIGTERM, -signal.SIGTERM)):
        worker = os.fork()
        if not worker:
            leave_in_child(number)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == status


def test_outside_of_training_a_signal_ends_the_program_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    def lose_a_worker(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")

    before, torchs = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGCHLD, lose_a_worker)
    with pytest.raises(SystemExit) as caught, ending_on_signals("stopped"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            torch.zeros(1)
        finally:
            os.kill(os.getpid(), signal.SIGCHLD)  # the signal has also reached a worker of the loader
    assert signal.signal(signal.SIGCHLD, torchs) == lose_a_worker
    assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "egovlpv2: SIGTERM: stopped\n"
