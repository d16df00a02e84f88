"""Atomic writing and safe reading of Lightning's checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from egovlpv2.checkpoints.torch_files import load
from egovlpv2.io.files import atomic_write


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that replaces a file only when its successor is complete, on any file system.

    Lightning's plugin writes into `$TMPDIR` and copies: if the process ends during the copy, a partial file is left.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: It can't be written, for example because the disk is full; an existing file is unchanged.
        """
        with atomic_write(Path(path)) as draft, draft.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's, when it closes the archive after a failed write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str | Path, map_location: Callable[..., Any] | None = None,
                        weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; only tensors and plain values are loaded, regardless of `weights_only`."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a Lightning module onto the CPU.

    Raises:
        ValueError: The file is not a checkpoint, is damaged, or holds code; describes it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    refusal = f"{path} is not a checkpoint of a run"
    content = load(path, refusal)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict) or "loops" not in content:
        raise ValueError(f"{refusal}: it looks like {_describe_content(content)}")
    return content


def _describe_content(content: Any) -> str:
    """Describe the content of a file by its keys."""
    if not isinstance(content, dict):
        return f"one value of the type {type(content).__name__}"
    if "state_dict" in content or all(isinstance(value, torch.Tensor) for value in content.values()):
        return "weights alone (they go to --model.init_args.weights)"
    return f"a dict with the keys {', '.join(map(str, list(content)[:5]))}"
