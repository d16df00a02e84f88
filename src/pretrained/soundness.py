"""Detect damaged or diverged weights."""

from math import isfinite

from torch import Tensor

# Matrices that are initialised to zero, and may still be constant.
_FROM_ZERO = "time_attn.proj.weight"


def check_weights(state: dict[str, Tensor], source: str) -> None:
    """Check that weights are finite and that no matrix is constant.

    Args:
        state: Tensors by name.
        source: Name of their source in error messages, such as a path.

    Raises:
        ValueError: A value is NaN or infinite, or all values of a matrix are equal; names the tensor.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():  # such as the step count of a batch norm
            continue
        low, high = (float(bound) for bound in tensor.detach().aminmax())  # both are NaN if any value is
        if not (isfinite(low) and isfinite(high)):
            raise ValueError(f"{source}: {name} has a number that is NaN or infinite: the weights are damaged, or were "
                             "saved after training had diverged")
        if low == high and tensor.ndim > 1 and tensor.numel() > 1 and _is_matrix(name):
            raise ValueError(f"{source}: all numbers of {name} are {low:g}: the weights are damaged")


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and not name.endswith(_FROM_ZERO)
