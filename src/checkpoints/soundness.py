"""Numbers of weights that nothing can be computed with."""

from math import isfinite

from torch import Tensor

# Matrices that begin at zero: a ViT's features survive until time is learned.
_FROM_ZERO = "time_attn.proj.weight"


def check_weights(state: dict[str, Tensor], source: str) -> None:
    """Refuse weights that are not sound.

    Args:
        state: The tensors of a backbone, by name.
        source: What error messages call them, such as a path.

    Raises:
        ValueError: A number is NaN or infinite, or all numbers of a matrix are the same; names the tensor.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():  # such as what a batch norm counts
            continue
        low, high = (float(bound) for bound in tensor.detach().aminmax())  # both NaN if one number is
        if not (isfinite(low) and isfinite(high)):
            raise ValueError(f"{source}: {name} has a number that is NaN or infinite: the weights are damaged, or were "
                             "saved after training had diverged")
        if low == high and tensor.ndim > 1 and tensor.numel() > 1 and _is_matrix(name):
            raise ValueError(f"{source}: all numbers of {name} are {low:g}: the weights are damaged")


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and not name.endswith(_FROM_ZERO)
