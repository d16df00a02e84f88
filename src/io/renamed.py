"""Names of earlier versions, for errors that give the new name."""

from collections.abc import Iterator
from typing import Any

KEYS = {
    "max_words": "max_tokens",
    "eval_max_words": "eval_max_tokens",
    "gate_factor": "alpha_lr_factor",
    "judged_by": "monitor",
    "drawn_above": "min_relevancy",
    "held_out": "val_fraction",
}
CLASSES = {
    "egovlpv2.pictures.": "egovlpv2.viz.callbacks.",
    "egovlpv2.callbacks.": "egovlpv2.training.report.",
}
EVERY_RUN_HAS = {
    "egovlpv2.run_checkpoints.BestCheckpoint": "best_checkpoint",
    "egovlpv2.run_checkpoints.LastCheckpoint": "last_checkpoint",
    "egovlpv2.training.run_checkpoints.BestCheckpoint": "best_checkpoint",
    "egovlpv2.training.run_checkpoints.LastCheckpoint": "last_checkpoint",
    "lightning.pytorch.callbacks.LearningRateMonitor": "learning_rate",
}
"""Callbacks that once stood in configurations, and the keys of their options now."""
_MOVED = {"data.init_args.frames": "data.init_args.recipe.frames"}  # of NLQ and MQ


def check_names(content: Any, source: str) -> None:
    """Refuse keys and class paths of earlier versions.

    Args:
        content: Plain values of a configuration.
        source: The name of the configuration in error messages.

    Raises:
        ValueError: There is one; the message gives the new name.
    """
    for path, key, value in _entries(content, ""):
        if key in KEYS:
            raise ValueError(f"{source}: {path} is called {KEYS[key]} now: rename it")
        if path in _MOVED:
            raise ValueError(f"{source}: {path} is called {_MOVED[path]} now: rename it")
        if key == "class_path" and value in EVERY_RUN_HAS:
            raise ValueError(f"{source}: {path}: every run has {value} now: remove it (its options are under "
                             f"{EVERY_RUN_HAS[value]})")
        for old, new in CLASSES.items():
            if key == "class_path" and isinstance(value, str) and value.startswith(old):
                raise ValueError(f"{source}: {path}: {value} is {new}{value.removeprefix(old)} now: rename it")


def check_option(option: str) -> None:
    """Refuse a dotted command-line option of an earlier version.

    Raises:
        ValueError: It is one; the message gives the new name.
    """
    path, _, _ = option.partition("=")
    before, dot, key = path.rpartition(".")
    if path.removeprefix("--") in _MOVED:
        raise ValueError(f"{path} is called --{_MOVED[path.removeprefix('--')]} now")
    if dot and key in KEYS:
        raise ValueError(f"{path} is called {before}.{KEYS[key]} now")


def _entries(content: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield dotted path, key and value of everything nested in plain values."""
    if isinstance(content, dict):
        for key, value in content.items():
            inner = f"{path}.{key}" if path else str(key)
            yield inner, str(key), value
            yield from _entries(value, inner)
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _entries(value, f"{path}[{i}]")
