"""Check that a tower computes the same as the library's model that it is built from."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from egovlpv2.pretrained.soundness import check_weights

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_TOLERANCE = 1e-4  # of outputs after a LayerNorm; float32 differs by 1e-6
_SEED = 0
# Errors of a model with another structure: a missing part, or outputs of another shape.
STRUCTURE_ERRORS = (AttributeError, TypeError, RuntimeError, ValueError, LookupError, AssertionError, ImportError)


@dataclass(frozen=True)
class Comparison:
    """How to run a tower and the library's model that it is built from on the same inputs.

    Args:
        library: Name of the library in error messages.
        example: Makes inputs, of the model and the tower.
        theirs: Runs the model, of the model, the tower and the inputs.
        ours: Runs the tower, of the tower and the inputs.
        own_dropouts: True if the tower replaces the model's dropouts by its own.
        spare_modules: Ends of names of modules that the tower replaces by its own, or that the outputs don't need.
        spare_tensors: The same of parameters and buffers.
    """

    library: str
    example: Callable[[Any, Any], Any]
    theirs: Callable[[Any, Any, Any], Tensor]
    ours: Callable[[Any, Any], Tensor]
    own_dropouts: bool = False
    spare_modules: tuple[str, ...] = ()
    spare_tensors: tuple[str, ...] = ()

    def check_copy(self, build: Callable[[], tuple[nn.Module, nn.Module]], what: str) -> None:
        """Check a small copy of a model with random weights.

        Args:
            build: Makes the model and the tower.
            what: Name of the model in error messages.

        Raises:
            ValueError: The tower would leave out a part of the model or compute something else; names it.
        """
        with isolated_cpu():
            try:
                model, tower = build()
            except STRUCTURE_ERRORS as error:
                raise ValueError(f"{what} is not supported: it has another structure ({error})") from error
            randomize(model), tower.eval()
            inputs = self.example(model, tower)
            check_same_outputs(model, lambda: self.theirs(model, tower, inputs), lambda: self.ours(tower, inputs),
                               what, self.library, self.own_dropouts, self.spare_modules)
            check_all_used(model, tower, self.spare_tensors, what, self.library)

    def check_weights(self, model: nn.Module, tower: nn.Module, what: str) -> None:
        """Check a model with its initial weights; without a check on the meta device and below float32.

        Args:
            model: The library's model, in training mode or not.
            tower: The tower, in the same mode.
            what: Name of the weights in error messages.

        Raises:
            ValueError: The weights have values that are not finite, or the outputs differ.
        """
        weight = next(tower.parameters())
        if weight.is_meta or weight.dtype != torch.float32:
            return  # rounding hides differences
        check_weights(model.state_dict(), what)
        training = model.training
        with isolated_cpu(), torch.no_grad():
            model.eval(), tower.eval()
            inputs = self.example(model, tower)
            check_same_values(self.theirs(model, tower, inputs), self.ours(tower, inputs), what, self.library)
        model.train(training), tower.train(training)


@contextmanager
def isolated_cpu() -> Iterator[None]:
    """Create a context for small models on the CPU in float32, isolated from the caller's device, dtype, gradient mode
    and random state.
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


def randomize(model: AnyModule) -> AnyModule:
    """Randomise all parameters and set eval mode: with zeros or tiny weights, differences would go unnoticed."""
    for name, parameter in model.named_parameters():
        fan_in = parameter.numel() / len(parameter) if parameter.ndim > 1 else 16
        nn.init.normal_(parameter, std=fan_in**-0.5)  # variance-preserving
        if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
            parameter.data += 1
    return model.eval()


def check_same_outputs(model: nn.Module, theirs: Callable[[], Tensor], ours: Callable[[], Tensor], what: str,
                       library: str, own_dropouts: bool = False, spare: tuple[str, ...] = ()) -> None:
    """Check that our tower uses all parts of a library's model and computes the same outputs.

    Args:
        model: The library's model, whose modules our tower uses.
        theirs: Computes the library's outputs.
        ours: Computes our outputs from the same inputs.
        what: Name of the model in error messages.
        library: Name of the library in error messages.
        own_dropouts: True if our tower replaces the model's dropouts by its own.
        spare: Ends of names of modules that our tower replaces by its own.

    Raises:
        ValueError: Our outputs don't depend on some parameters, dropouts or other modules of the model, or differ;
            names them.
    """
    try:
        with _recorded(model) as by_them:
            expected = theirs()
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"{what} is not supported: {library}'s own forward pass of a small one fails "
                         f"({' '.join(str(error).split())[:160]})") from error
    try:
        with _recorded(model) as by_us:
            outputs = ours()
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"{what} is not supported: it has another structure ({' '.join(str(error).split())[:160]})"
                         ) from error
    left = _unused(model, expected, outputs) + _left_modules(model, by_them - by_us, spare)
    left += [] if own_dropouts else _left_dropouts(model, by_us)
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        raise ValueError(f"{what} is not supported: {', '.join(left[:4])}{more} of {library}'s model would be left out")
    check_same_values(expected, outputs, f"{what} is not supported", library)


def check_same_values(expected: Tensor, outputs: Tensor, what: str, library: str) -> None:
    """Check that our tower's outputs are those of the library.

    Raises:
        ValueError: They differ by more than 1e-4, of values above 1 relatively.
    """
    if expected.shape == outputs.shape:
        scale = expected.abs().max().clamp(min=1)
        if (expected - outputs).abs().max() <= _TOLERANCE * scale:  # False for NaN
            return
    raise ValueError(f"{what}: its layers compute something else in {library} than here")


def check_all_used(model: nn.Module, tower: nn.Module, spare: tuple[str, ...], what: str, library: str) -> None:
    """Check that our tower has taken over every parameter and buffer of a library's model.

    Args:
        model: The library's model.
        tower: Ours.
        spare: Ends of names of tensors that our tower computes by itself or doesn't need.
        what: Name of the model in error messages.
        library: Name of the library in error messages.

    Raises:
        ValueError: Some are left; names them.
    """
    def tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
        return [*module.named_parameters(), *module.named_buffers()]

    ours = {id(tensor) for _, tensor in tensors(tower)}
    left = [name for name, tensor in tensors(model) if id(tensor) not in ours and not name.endswith(spare)]
    if left:
        raise ValueError(f"{what} is not supported: {', '.join(left[:4])} of {library}'s model would be left out")


def _unused(model: nn.Module, expected: Tensor, outputs: Tensor) -> list[str]:
    """List parameters that the library's outputs depend on and ours don't."""
    names, parameters = zip(*(pair for pair in model.named_parameters() if pair[1].requires_grad), strict=True)
    by_them, by_us = (torch.autograd.grad(y.square().sum(), parameters, allow_unused=True) for y in (expected, outputs))
    return [name for name, a, b in zip(names, by_them, by_us, strict=True) if a is not None and b is None]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[set[nn.Module]]:
    """Collect the modules that run."""
    ran: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: ran.add(module)) for module in model.modules()]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _left_modules(model: nn.Module, left: set[nn.Module], spare: tuple[str, ...]) -> list[str]:
    """List modules without parameters that only the library runs; dropouts are listed elsewhere."""
    def counts(module: nn.Module) -> bool:
        inert = isinstance(module, nn.Identity) or "drop" in type(module).__name__.lower()
        return not inert and not [*module.children(), *module.parameters()]

    return [name for name, module in model.named_modules()
            if module in left and counts(module) and not name.endswith(spare)]


def _left_dropouts(model: nn.Module, ran: set[nn.Module]) -> list[str]:
    """List dropout modules of any kind with a rate above zero that our tower doesn't run."""
    rates = {name: max((getattr(module, key, 0) or 0 for key in ("p", "prob", "drop_prob")), default=0)
             for name, module in model.named_modules() if module not in ran and not list(module.children())}
    return [f"{name} (rate {rate:g})" for name, rate in rates.items() if isinstance(rate, float) and rate > 0]
