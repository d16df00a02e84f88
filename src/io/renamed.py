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
MOVED = {"frames": ("num_frames", "recipe.frames"), "frame_rule": ("recipe.frame_rule",)}
"""Settings of earlier versions by their last name, and their names now; which one depends on the class."""


def check_names(content: Any, source: str, under: str = "") -> None:
    """Refuse keys and class paths of earlier versions.

    Args:
        content: Plain values of a configuration.
        source: The name of the configuration in error messages.
        under: The dotted name under which the content stands; empty for a whole configuration.

    Raises:
        ValueError: There is one; the message gives the new name.
    """
    for path, key, value in _entries(content, under):
        if key in KEYS:
            raise ValueError(f"{source}: {path} is called {KEYS[key]} now: rename it")
        if isinstance(value, str):
            check_class(value, f"{source}: {path}")


def check_class(name: str, source: str) -> None:
    """Refuse the path of a class of earlier versions.

    Raises:
        ValueError: It is one; the message gives the new path.
    """
    if name in EVERY_RUN_HAS:
        raise ValueError(f"{source}: every run has {name} now: remove it (its options are under {EVERY_RUN_HAS[name]})")
    for old, new in CLASSES.items():
        if name.startswith(old):
            raise ValueError(f"{source}: {name} is {new}{name.removeprefix(old)} now: rename it")


def check_option(option: str) -> None:
    """Refuse a dotted command-line option of an earlier version, or with names of one in its value.

    Raises:
        ValueError: It is one; the message gives the new name.
    """
    path, _, value = option.partition("=")
    before, dot, key = path.rpartition(".")
    if dot and key in KEYS:
        raise ValueError(f"{path} is called {before}.{KEYS[key]} now")
    if path.startswith("--"):
        check_class(value, path)


def _entries(content: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield dotted path, key and value of everything nested in plain values, except settings of others' classes."""
    if isinstance(content, dict):
        name = content.get("class_path")
        others = isinstance(name, str) and "." in name and not name.startswith("egovlpv2.")
        for key, value in content.items():
            if others and key == "init_args":
                continue
            inner = f"{path}.{key}" if path else str(key)
            yield inner, str(key), value
            yield from _entries(value, inner)
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield f"{path}[{i}]", "", value
            yield from _entries(value, f"{path}[{i}]")
