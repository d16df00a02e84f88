"""Bounds of the numbers in a configuration."""

from typing import Annotated, Any

from msgspec import Meta

WIDEST = 1 << 20  # no layer is wider, no vocabulary larger than 16 times that; larger numbers are slips
Width = Annotated[int, Meta(ge=1, le=WIDEST)]
Depth = Annotated[int, Meta(ge=1, le=1000)]
Share = Annotated[float, Meta(ge=0, lt=1)]


def require(holds: bool, key: str, value: Any, wanted: str) -> None:
    """Refuse a value of a configuration.

    Raises:
        ValueError: It doesn't hold; names the key and what is wanted.
    """
    if not holds:
        raise ValueError(f"{key} is {value!r}: give {wanted}")
