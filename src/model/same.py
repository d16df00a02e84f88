"""Whether a tower computes what the library's own model computes, told by a small copy of it with drawn weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_TOLERANCE = 1e-4  # of outputs after a LayerNorm; float32 differs by 1e-6
_SEED = 0
# A model of another structure fails in any of these ways: a part that isn't there, or outputs of another shape.
UNFIT = (AttributeError, TypeError, RuntimeError, ValueError, LookupError, AssertionError, ImportError)


@contextmanager
def on_the_side() -> Iterator[None]:
    """Build and run a small model on the CPU, whatever device, number type or gradient mode is set outside, and leave
    the random numbers outside as they are.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        for context in (torch.device("cpu"), torch.inference_mode(False), torch.enable_grad(),
                        torch.autocast("cpu", enabled=False)):
            stack.enter_context(context)
        torch.manual_seed(_SEED)
        yield


def draw(model: AnyModule) -> AnyModule:
    """Draw all parameters of a model, so that none that is zero or tiny hides a difference, and set it to eval mode."""
    for name, parameter in model.named_parameters():
        fan_in = parameter.numel() / len(parameter) if parameter.ndim > 1 else 16
        nn.init.normal_(parameter, std=fan_in**-0.5)  # what comes out of a layer is as large as what goes in
        if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
            parameter.data += 1
    return model.eval()


def refuse_differences(model: nn.Module, theirs: Callable[[], Tensor], ours: Callable[[], Tensor], what: str,
                       library: str, own_dropouts: bool = False) -> None:
    """Refuse a model of which our tower leaves something out, or computes something else.

    Args:
        model: The library's model, whose modules our tower uses.
        theirs: The library's outputs.
        ours: Ours, of the same inputs.
        what: What error messages call the model.
        library: Its name, for error messages.
        own_dropouts: Whether our tower has dropouts of its own in the place of the model's.

    Raises:
        ValueError: Parameters or dropouts of the model play no part in our outputs, or these are others; names them.
    """
    try:
        expected = theirs()
    except UNFIT as error:
        raise ValueError(f"{what} is not supported: {library}'s own forward pass of a small one fails "
                         f"({' '.join(str(error).split())[:160]})") from error
    ran: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: ran.add(module)) for module in model.modules()]
    try:
        outputs = ours()
    except UNFIT as error:
        raise ValueError(f"{what} is not supported: it has another structure ({' '.join(str(error).split())[:160]})"
                         ) from error
    finally:
        for hook in hooks:
            hook.remove()
    left = _unused(model, expected, outputs) + ([] if own_dropouts else _left_dropouts(model, ran))
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        raise ValueError(f"{what} is not supported: {', '.join(left[:4])}{more} of {library}'s model would be left out")
    if expected.shape != outputs.shape or not (expected - outputs).abs().max() <= _TOLERANCE:  # NaN neither
        raise ValueError(f"{what} is not supported: its layers compute something else in {library} than here")


def _unused(model: nn.Module, expected: Tensor, outputs: Tensor) -> list[str]:
    """Parameters that play a part in the library's outputs and none in ours, by name."""
    names, parameters = zip(*(pair for pair in model.named_parameters() if pair[1].requires_grad), strict=True)
    by_them, by_us = (torch.autograd.grad(y.square().sum(), parameters, allow_unused=True) for y in (expected, outputs))
    return [name for name, a, b in zip(names, by_them, by_us, strict=True) if a is not None and b is None]


def _left_dropouts(model: nn.Module, ran: set[nn.Module]) -> list[str]:
    """Dropouts, of whatever kind, that are on and that we don't run."""
    rates = {name: max((getattr(module, key, 0) or 0 for key in ("p", "prob", "drop_prob")), default=0)
             for name, module in model.named_modules() if module not in ran and not list(module.children())}
    return [f"{name} (rate {rate:g})" for name, rate in rates.items() if isinstance(rate, float) and rate > 0]
