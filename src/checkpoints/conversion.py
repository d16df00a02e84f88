"""`egovlpv2 convert`: convert a checkpoint of any known format to this project's `.safetensors`."""

from pathlib import Path

from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import load_backbone, num_frames_of, save_backbone
from egovlpv2.command.parser import CommandParser


def main(argv: list[str] | None = None) -> None:
    """`egovlpv2 convert SOURCE TARGET.safetensors`."""
    parser = CommandParser("egovlpv2 convert", description="Any checkpoint to a .safetensors of ours.")
    parser.add_argument("source", help="a released .pth, an own .ckpt or .safetensors")
    parser.add_argument("target", help="the .safetensors to write")
    parser.add_argument("--num-frames", type=int, help="interpolate the temporal embedding (default: as in the file)")
    args = parser.parse_args(argv)
    if not args.target.endswith(".safetensors"):
        raise ValueError(f"{args.target}: the target must end in .safetensors")
    if args.num_frames is not None and args.num_frames < 1:
        raise ValueError(f"--num-frames {args.num_frames}: give 1 or more")
    frames = args.num_frames or num_frames_of(args.source)
    backbone = load_backbone(args.source, frames)
    save_backbone(backbone, args.target)
    parameters = sum(p.numel() for p in backbone.parameters())
    print(f"{args.target}: {parameters / 1e6:.1f} M parameters, {frames} frames; no key of {args.source} left over")
    if read_answer_head(Path(args.source))[0] is not None:
        print(f"but for its head of EgoTaskQA: to ask questions, give {args.source} itself")



