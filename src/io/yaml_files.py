"""Reading of YAML configurations, with one kind of error that names the file."""

from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, __version__
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from egovlpv2.io.schema import read_text


def choose(key: str, values: dict[str, Any]) -> Any:
    """Return the value of a key: `${choose:KEY,{one:1,other:2}}` in a configuration.

    Raises:
        ValueError: `values` has no such key; names those that it has.
    """
    if key not in values:
        raise ValueError(f"{key!r} is not one of {', '.join(map(str, values))}")
    return values[key]


# omegaconf 2.4 deprecates the name of 2.3.
_register = OmegaConf.register_new_resolver if __version__.startswith("2.3") else OmegaConf.register_resolver
_register("choose", choose, replace=True)


def read_yaml(path: Path) -> DictConfig:
    """Read the keys and values of a YAML file, with unresolved interpolations.

    Raises:
        ValueError: The file can't be read, is not YAML, or doesn't hold keys and values.
    """
    try:
        content = OmegaConf.load(StringIO(read_text(path)))
    except (OSError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ValueError(f"{path} can't be read as a configuration: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig) or not content:  # such as a file of comments alone
        raise ValueError(f"{path} can't be read as a configuration: it should hold keys and values")
    return content
