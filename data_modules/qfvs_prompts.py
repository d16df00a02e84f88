"""Prompts of QFVS's videos: `egovlpv2 prompts-qfvs`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.io.files import write_json
from egovlpv2.io.yaml_files import read_yaml


def read_arguments(configs: Sequence[Path]) -> dict[str, Any]:
    """Read the data module's arguments from configs, of which the later ones win.

    Raises:
        ValueError: A config can't be read, an interpolation leads nowhere, or they are not of QFVS.
    """
    names = ", ".join(map(str, configs))
    try:
        merged = OmegaConf.merge(*(read_yaml(path) for path in configs))
        content = OmegaConf.to_container(merged)
        data = (content.get("data") if isinstance(content, dict) else None) or {}
        if str(data.get("class_path")).rpartition(".")[2] != QFVSDataModule.__name__ or not data.get("init_args"):
            raise ValueError(f"{names}: data.class_path is {data.get('class_path')!r} there, without a QFVSDataModule: "
                             "give conf/qfvs.yaml, and other configs after it")
        arguments = OmegaConf.to_container(merged.data.init_args, resolve=True)  # the rest may lack its variables
        return {str(name): value for name, value in arguments.items()} if isinstance(arguments, dict) else {}
    except (OmegaConfBaseException, AttributeError) as error:
        raise ValueError(f"{names} can't be read as configs: {' '.join(str(error).split())}") from error


def write_prompts(config: Sequence[str], out: str | Path) -> str:
    """Write the prompts of each video of QFVS, for `egovlpv2 fuse --queries`.

    Args:
        config: configs of the run that reads the features, conf/qfvs.yaml and others after it
        out: JSON to write: {"P01": ["There is a Car", ...], ...}

    Raises:
        ValueError: A config can't be read or is not of QFVS.
    """
    configs = [Path(path) for path in config]
    try:
        data = QFVSDataModule(**read_arguments(configs))
    except TypeError as error:  # an argument that it doesn't have
        raise ValueError(f"data.init_args of {', '.join(map(str, configs))}: {error}") from error
    found = data.prompts()
    write_json(Path(out), found)
    return f"{out}: {', '.join(f'{len(texts)} prompts of {video}' for video, texts in found.items())}"
