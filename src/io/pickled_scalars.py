"""Numpy's scalars in a pickle, rebuilt from their bytes by functions of our own; every other class is refused."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

Fault = Callable[[str], ValueError]
"""Makes an error that names the file and the place of a fault in it."""

_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "u8": "Q", "u4": "I"}


class Symbol(Enum):
    """A global name that scalars need."""

    SCALAR = "scalar"
    DTYPE = "dtype"
    ENCODE = "encode"


_KNOWN = {
    ("numpy.core.multiarray", "scalar"): Symbol.SCALAR, ("numpy._core.multiarray", "scalar"): Symbol.SCALAR,
    ("numpy", "dtype"): Symbol.DTYPE, ("_codecs", "encode"): Symbol.ENCODE,
}


@dataclass
class NumberType:
    """A dtype of numbers.

    Args:
        code: Kind and bytes, such as `f8`.
        order: `<` or `>`.
    """

    code: str
    order: str = "<"


def find_symbol(module: str, name: str, fault: Fault) -> Symbol:
    """Return the symbol of a global name.

    Raises:
        ValueError: It is another one.
    """
    if (module, name) not in _KNOWN:
        raise fault(f"names {module[:60]}.{name[:60]}, which a list of plain rows doesn't need: it may run code, and "
                    "is not read")
    return _KNOWN[module, name]


def restore(symbol: Symbol, arguments: tuple[Any, ...], fault: Fault) -> Any:
    """Compute the result of a call in the pickle.

    Raises:
        ValueError: Such a call makes no number.
    """
    if symbol is Symbol.DTYPE and arguments and isinstance(arguments[0], str) and arguments[0] in _FORMATS:
        return NumberType(arguments[0])
    if symbol is Symbol.ENCODE and len(arguments) == 2 and arguments[1] == "latin1" and isinstance(arguments[0], str):
        try:
            return arguments[0].encode("latin1")
        except UnicodeEncodeError as error:
            raise fault("has bytes that are not Latin-1") from error
    if symbol is Symbol.SCALAR and len(arguments) == 2:
        kind, raw = arguments
        if isinstance(kind, NumberType) and isinstance(raw, bytes) and len(raw) == int(kind.code[1:]):
            return struct.unpack(kind.order + _FORMATS[kind.code], raw)[0]
    raise fault(f"makes a numpy {symbol.value} that is not a number")


def set_state(target: Any, state: Any, fault: Fault) -> None:
    """Set the byte order of a number type.

    Raises:
        ValueError: The target is something else, or the state is of another form.
    """
    if not isinstance(target, NumberType) or not isinstance(state, tuple) or len(state) < 2:
        raise fault("sets the state of something that is not a numpy dtype")
    if state[1] not in ("<", ">", "|", "="):
        raise fault(f"has a numpy dtype of the byte order {str(state[1])[:10]!r}")
    target.order = ">" if state[1] == ">" else "<"
