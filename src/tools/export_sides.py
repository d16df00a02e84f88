"""The two sides of a backbone as models of their own, in the formats of ONNX and of `torch.export`.

Letters: `B` clips or texts, `T` frames, `L` tokens, `P` width of the embeddings.
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn.functional import normalize

from egovlpv2.batch import Text
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import tokenize
from egovlpv2.types import ExportFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPSET = 20  # of ONNX
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # of an embedding's numbers
Run = Callable[..., Tensor]


class VideoSide(nn.Module):
    """Embed clips: uint8 frames (B, T, 3, H, W) -> (B, P) of length 1. Pixels are normalised inside."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, video: Tensor) -> Tensor:
        """Compute the embeddings."""
        return normalize(self.backbone.embed_video(video).float(), dim=-1)


class TextSide(nn.Module):
    """Embed texts: token ids and mask, (B, L) int64 each -> (B, P) of length 1."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the embeddings."""
        return normalize(self.backbone.embed_text(Text(input_ids=input_ids, attention_mask=attention_mask)).float(),
                         dim=-1)


class Side(NamedTuple):
    """A side to export."""

    name: str  # `video` or `text`
    module: nn.Module
    inputs: dict[str, dict[int, Any]]  # dynamic axes of each input
    examples: Sequence[tuple[Tensor, ...]]  # inputs to compare with; of different sizes where axes are dynamic

    @property
    def output(self) -> str:
        """Name of the output."""
        return f"{self.name}_embedding"


def video_side(backbone: Backbone, num_frames: int, size: tuple[int, int]) -> Side:
    """Make the video side, for clips of a number of frames of a size in pixels."""
    generator = torch.Generator().manual_seed(0)
    examples = [(torch.randint(0, 256, (batch, num_frames, 3, *size), dtype=torch.uint8, generator=generator),)
                for batch in (3, 1)]
    return Side("video", VideoSide(backbone), {"video": {0: Dim("batch", min=1)}}, examples)


def text_side(backbone: Backbone, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> Side:
    """Make the text side, for texts of up to a number of tokens, or of the tower's if it attends to padding."""
    texts = ["#C C opens the drawer", "#C C picks up the knife from the table with the left hand", "c " * max_tokens]
    axes = {0: Dim("batch", min=1)}
    if backbone.text_tower.masks_padding:
        axes[1] = Dim("tokens", min=2, max=max_tokens)
    tokens = [tokenize(tokenizer, some, max_tokens, "longest") for some in (texts, texts[:1])]
    examples = [(text["input_ids"], text["attention_mask"]) for text in tokens]
    return Side("text", TextSide(backbone), {"input_ids": axes, "attention_mask": axes}, examples)


def write_side(side: Side, format: ExportFormat, path: Path) -> None:
    """Write a side.

    Args:
        side: The side.
        format: `onnx`, or `torch` for `torch.export.save`.
        path: The file.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about their own parts
        program = torch.export.export(side.module, side.examples[0], dynamic_shapes=tuple(side.inputs.values()))
        graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
        for node in chain.from_iterable(graph.nodes for graph in graphs):
            node.meta.pop("stack_trace", None)  # it has paths of this machine
        if format == "torch":
            _leave_out_unused(program)
            torch.export.save(program, path)
        else:
            _write_onnx(side, program, path)


def _leave_out_unused(program: ExportedProgram) -> None:
    """Empty the parameters that a side doesn't use, such as those of the other side: all are stored otherwise."""
    names = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and not node.users:
            program.state_dict[names[node.name]] = nn.Parameter(torch.empty(0), requires_grad=False)


def _write_onnx(side: Side, program: ExportedProgram, path: Path) -> None:
    names = tuple({axis: dim.__name__ for axis, dim in axes.items()} for axes in side.inputs.values())
    onnx = torch.onnx.export(program, side.examples[0], dynamo=True, verbose=False, opset_version=OPSET,
                             input_names=list(side.inputs), output_names=[side.output], dynamic_shapes=names)
    assert onnx is not None  # it is where no file is named
    onnx.save(path)


def open_side(path: Path, inputs: Sequence[str]) -> Run:
    """Open an exported file as a function of its inputs.

    Args:
        path: An `.onnx` or `.pt2`.
        inputs: Names of the inputs.
    """
    if path.suffix == SUFFIXES["torch"]:
        return torch.export.load(path).module()
    import onnxruntime  # of the extra `export`

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*values: Tensor) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(inputs, values, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


@torch.no_grad()
def compare(side: Side, path: Path) -> float:
    """Compare an exported file with the backbone, for batches of several and of one.

    Returns:
        The largest difference of a number of the embeddings.

    Raises:
        ValueError: They differ by more than 1e-4; says by how much.
    """
    run = open_side(path, list(side.inputs))
    worst = max(float((run(*example) - side.module(*example)).abs().max()) for example in side.examples)
    if not worst <= TOLERANCE:  # NaN too
        raise ValueError(f"{path.name}: its embeddings differ from the backbone's by up to {worst:.2g}, more than "
                         f"{TOLERANCE:g}: nothing was written; export with other versions of torch and onnxruntime, or "
                         "in the other --format")
    return worst
