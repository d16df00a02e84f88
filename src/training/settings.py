"""What a run that goes on changes in the settings that it had before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from egovlpv2.io.schema import read_text

_COMPARED = ("model", "data", "trainer", "seed_everything")
# These say how a run is watched, not what comes out of it.
_NEUTRAL = ("trainer.logger", "trainer.enable_", "trainer.profiler", "trainer.default_root_dir",
            "data.init_args.num_workers")


def changed_settings(path: Path, now: str) -> Iterator[str]:
    """A line for each setting that differs from those a run had before.

    Args:
        path: The `config.yaml` of the run; nothing differs from one that is missing.
        now: The present settings, as YAML.

    Raises:
        ValueError: The file can't be read as YAML; names it.
    """
    if not path.is_file():
        return
    before, present = _read(read_text(path), str(path)), _read(now, "the settings")
    for key in dict.fromkeys([*before, *present]):
        if key.startswith(_COMPARED) and not key.startswith(_NEUTRAL) and before.get(key) != present.get(key):
            yield f"{key} is {present.get(key)} from here on; it was {before.get(key)} in {path}"


def _read(text: str, source: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{source} is not YAML ({str(error).splitlines()[0]}): remove it to go on without") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds no settings: remove it to go on without")
    return dict(_flatten(content, ""))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings, by dotted names."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flatten(item, f"{name}.{number}")
    else:
        yield name, value
