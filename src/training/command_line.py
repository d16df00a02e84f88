"""Checks of a run's command line and of its configuration files, before they are parsed."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from egovlpv2.io.renamed import check_names, check_option
from egovlpv2.io.schema import read_text
from egovlpv2.io.yaml_files import read_yaml

_PARTS = ("model", "data", "trainer")
_SUFFIXES = (".yaml", ".yml")


def check_command_line(args: Sequence[str]) -> None:
    """Refuse a configuration that isn't YAML or has a key twice, and names of earlier versions.

    jsonargparse would leave out the name of the file, and knows no earlier versions.

    Args:
        args: The command line, from the subcommand on.

    Raises:
        ValueError: A file or an option can't be used; one line names it.
    """
    for option, value in split_options(args):
        check_option(f"{option}={value}")
        is_config = option == "--config"
        if is_config and value.endswith(_SUFFIXES):
            check_config_exists(value, "--config")
        if is_config and Path(value).is_file():
            _check_config(value)
        elif value.endswith(_SUFFIXES) and Path(value).is_file():  # of a part, such as `--data own.yaml`
            check_names(_plain(read_text(Path(value))), value, option.removeprefix("--"))
        elif value[:1] in ("{", "["):
            check_names(_plain(value), option, option.removeprefix("--"))


def split_options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Split a command line into its options and their values; `-c` is `--config`."""
    for before, word in pairwise(["", *args]):
        if word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            yield name, value
        elif word.startswith("-c") and word != "-c":
            yield "--config", word.removeprefix("-c").removeprefix("=")
        elif (before == "-c" or before.startswith("--")) and "=" not in before and not word.startswith("--"):
            yield "--config" if before == "-c" else before, word


def config_files(args: Sequence[str]) -> list[str]:
    """The configuration files of a command line, in their order."""
    return [value for option, value in split_options(args) if option == "--config" and Path(value).is_file()]


def check_config_exists(path: str, option: str) -> None:
    """Refuse a configuration file that is missing.

    Raises:
        ValueError: It is; says where the configurations that ship with the package come from.
    """
    if not Path(path).exists():
        raise ValueError(f"{option} {path} is missing: check the path (`egovlpv2 configs --out conf` copies the "
                         "configs that ship into conf)")


def _check_config(path: str) -> None:
    """Refuse a file that isn't YAML, has names of earlier versions, or a part without keys."""
    content = OmegaConf.to_container(read_yaml(Path(path)))
    assert isinstance(content, dict)
    check_names(content, path)
    for part in _PARTS:
        if part in content and not isinstance(content[part], dict | str):
            raise ValueError(f"{path}: {part} has no keys: give it some, indented below it, or remove it")


def _plain(text: str) -> Any:
    """The value of an option or a file as YAML; None if it isn't any, which jsonargparse reports."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return None
