"""Convert any checkpoint to this project's `.safetensors`: `egovlpv2 convert`."""

from dataclasses import dataclass
from pathlib import Path

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import find_weights, load_backbone, num_frames_of, save_backbone
from egovlpv2.types import NumFrames


@dataclass(frozen=True)
class ConversionReport:
    """A checkpoint that was converted.

    Args:
        source: The checkpoint.
        target: The file that was written.
        parameters: Of the backbone.
        num_frames: Of the temporal embedding.
        leaves_answer_head: Whether the source has a head of EgoTaskQA, which the target lacks.
    """

    source: Path
    target: Path
    parameters: int
    num_frames: int
    leaves_answer_head: bool

    def __str__(self) -> str:
        text = (f"{self.target}: {self.parameters / 1e6:.1f} M parameters, {self.num_frames} frames; no key of "
                f"{self.source} left over")
        if self.leaves_answer_head:
            text += f"\nbut for its head of EgoTaskQA: to ask questions, give {self.source} itself"
        return text


def convert_checkpoint(source: str | Path, target: str | Path, *, num_frames: NumFrames | None = None
                       ) -> ConversionReport:
    """Convert any checkpoint to a .safetensors of this project.

    Args:
        source: a released .pth, an own .ckpt or .safetensors, a saved folder, or owner/name on the Hugging Face hub
        target: the .safetensors to write
        num_frames: interpolate the temporal embedding to so many frames; as in the file if not given

    Raises:
        ValueError: The source can't be read, or the target is not a .safetensors.
    """
    check_call(convert_checkpoint, locals())
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"{target}: the target must end in .safetensors")
    source = find_weights(source)
    frames = num_frames or num_frames_of(source)
    backbone = load_backbone(source, frames)
    save_backbone(backbone, target)
    parameters = sum(p.numel() for p in backbone.parameters())
    leaves_head = read_answer_head(source)[0] is not None
    return ConversionReport(source, Path(target), parameters, frames, leaves_head)
