"""`egovlpv2 prompts-qfvs`: the prompts of the videos of QFVS, for `egovlpv2 fuse --queries`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from egovlpv2.command.parser import CommandParser
from egovlpv2.data_modules.qfvs import QFVSDataModule
from egovlpv2.io.files import write_json
from egovlpv2.io.yaml_files import read_yaml


def read_arguments(configs: Sequence[Path]) -> dict[str, Any]:
    """The data module's arguments in configs, of which the later ones win.

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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser(prog="egovlpv2 prompts-qfvs", description="Writes the prompts of each video.")
    parser.add_argument("--config", type=Path, action="append", required=True,
                        help="of the run that reads the features, conf/qfvs.yaml; several, as for `egovlpv2 fit`")
    parser.add_argument("--out", type=Path, required=True, help='JSON to write: {"P01": ["There is a Car", ...], ...}')
    args = parser.parse_args(argv)
    try:
        data = QFVSDataModule(**read_arguments(args.config))
    except TypeError as error:  # an argument that it doesn't have
        raise ValueError(f"data.init_args of {', '.join(map(str, args.config))}: {error}") from error
    found = data.prompts()
    write_json(args.out, found)
    print(f"{args.out}: {', '.join(f'{len(texts)} prompts of {video}' for video, texts in found.items())}")


if __name__ == "__main__":
    main()
