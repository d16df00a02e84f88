"""Bounds of the numbers in a configuration."""

from typing import Annotated, Any

from msgspec import Meta

WIDEST = 1 << 20  # upper bound of a layer's width; anything larger is a typing error
Width = Annotated[int, Meta(ge=1, le=WIDEST)]
Depth = Annotated[int, Meta(ge=1, le=1000)]
Share = Annotated[float, Meta(ge=0, lt=1)]


def require(holds: bool, key: str, value: Any, wanted: str) -> None:
    """Check a value of a configuration.

    Args:
        holds: Result of the check.
        key: Name of the value, for the error message.
        value: The value.
        wanted: Allowed values, for the error message.

    Raises:
        ValueError: `holds` is False.
    """
    if not holds:
        raise ValueError(f"{key} is {value!r}: give {wanted}")
