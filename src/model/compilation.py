"""`torch.compile` of a backbone's layers.

Layers are compiled one by one rather than as a whole trunk or top: those of one kind share one compilation, so that it
takes seconds rather than minutes, and all passes (either gate, with and without checkpointing) use the same ones.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

_MOST_VARIANTS = 64  # gate, tokens that are computed, clip lengths, gradients on and off; torch's default is 8


def compile_layers(layers: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile layers in place, without changes of their parameters' names.

    Args:
        layers: The layers.
        backend: See `torch.compile`.

    Raises:
        ValueError: This machine lacks the compiler that torch needs.
    """
    check_compiler()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    torch._dynamo.config.optimize_ddp = False  # splits what is compiled where DDP's buckets end, and a layer is short
    for layer in layers:
        layer.compile(fullgraph=True, backend=backend)


def check_compiler() -> None:
    """Check for the C++ compiler and Python's headers, with which torch builds what it has compiled.

    Raises:
        ValueError: One of them is missing.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ValueError(f"backbone.compile: torch.compile needs the C++ compiler {compiler}, which is not installed: "
                         "install it, name another one in CXX, or set compile to false")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise ValueError("backbone.compile: torch.compile needs Python's headers, which are not installed (python3-dev "
                         "or the like): install them, or set compile to false")
