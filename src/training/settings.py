"""Changes of settings between a run and its resumption."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from egovlpv2.io.schema import read_text

_COMPARED = ("model", "data", "trainer", "seed_everything", "precision")
# Settings of monitoring, which don't affect the result.
_NEUTRAL = ("trainer.logger", "trainer.enable_", "trainer.profiler", "trainer.default_root_dir",
            "data.init_args.num_workers")


def changed_settings(path: Path, now: str, more: Sequence[str] = ()) -> Iterator[str]:
    """Describe each setting that has changed since a run was started, in a line.

    Args:
        path: The `config.yaml` of the run; if it is missing, no changes are reported.
        now: The current settings, as YAML.
        more: Settings to compare beside those of model, data and trainer.

    Raises:
        ValueError: The file is not valid YAML; names it.
    """
    if not path.is_file():
        return
    before, current = _read(read_text(path), str(path)), _read(now, "the settings")
    for key in dict.fromkeys([*before, *current]):
        if key.startswith((*_COMPARED, *more)) and not key.startswith(_NEUTRAL) and before.get(key) != current.get(key):
            yield f"{key} is {current.get(key)} from here on; it was {before.get(key)} in {path}"


def _read(text: str, source: str) -> dict[str, Any]:
    """Parse settings and flatten them to dotted names."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{source} is not YAML ({str(error).splitlines()[0]}): remove it to continue without"
                         ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds no settings: remove it to continue without")
    return dict(_flatten(content, ""))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings with their dotted names."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flatten(item, f"{name}.{number}")
    else:
        yield name, value
