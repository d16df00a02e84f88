"""One-line messages for errors of the user, a file or the machine."""

import argparse
import errno
import os
import re
import sys

_HINTS = {
    errno.ENOSPC: "free some space, or write elsewhere", errno.EDQUOT: "free some space, or write elsewhere",
    errno.EROFS: "write elsewhere", errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path", errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit (`ulimit -n`), or give fewer --num-workers", errno.EISDIR: "give the name of a file",
    errno.ENOENT: "check the path", errno.ENOTDIR: "check the path", errno.EFBIG: "raise the limit (`ulimit -f`), or "
    "write elsewhere",
}
_NO_MEMORY = ("the memory doesn't suffice: give a smaller --batch-size, fewer --num-workers, or smaller pictures, or "
              "stop other programs")
_KILLED = ("a helper process was killed, mostly because memory doesn't suffice: give fewer processes (--num-workers) "
           "or a smaller --batch-size")
_RUNTIME = ((re.compile("can't allocate memory|out of memory|bad_alloc|(calculation|multiplication) overflow",
                        re.IGNORECASE), _NO_MEMORY),
            (re.compile(r"DataLoader worker|process pool was terminated abruptly"), _KILLED))
# Errors of libraries that stand for faults of a file or the machine; looked up only if imported.
_FOREIGN = (("av", "FFmpegError"), ("safetensors", "SafetensorError"), ("msgspec", "MsgspecError"),
            ("torch", "OutOfMemoryError"))
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value|$")


def describe(error: BaseException) -> str | None:
    """Describe an error of the user, a file or the machine in one line; None for an error of the program itself."""
    kind, message = type(error), str(error)
    if message.startswith("Caught "):  # from a loader's worker, with the whole traceback as message
        kind, message = _in_worker(kind, message)
    if issubclass(kind, RuntimeError):
        for pattern, words in _RUNTIME:
            if pattern.search(message):
                return words
    foreign = (getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN)
    if not issubclass(kind, (ValueError, OSError, argparse.ArgumentError, RecursionError, MemoryError,
                             *(of for of in foreign if of is not None))):
        return None
    if issubclass(kind, MemoryError):
        return _NO_MEMORY
    if issubclass(kind, RecursionError):
        return "something that was given is nested too deeply, a JSON file or an option's value: simplify it"
    if isinstance(error, OSError) and error.errno is not None and not message.startswith("Caught "):
        message = _of_system(error)
    return one_line(_without_types(message)) or kind.__name__


def one_line(text: str) -> str:
    """Join lines and escape control characters, which may be in a file's name."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(letter if letter.isprintable() or letter == " " or "\ud800" <= letter <= "\udfff"
                   else ascii(letter)[1:-1] for letter in joined)


def _in_worker(kind: type[BaseException], message: str) -> tuple[type[BaseException], str]:
    """Parse type and text of a worker's error; torch passes on as `RuntimeError` those that it can't rebuild."""
    lines = message.rpartition("Traceback (most recent call last):\n")[2].rstrip().splitlines()
    start = next((i for i, line in enumerate(lines) if line[:1].strip()), len(lines) - 1)
    name, _, first = lines[start].partition(": ")
    module, _, plain = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), plain, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        kind = found
    return kind, "\n".join([first, *lines[start + 1:]])


def _of_system(error: OSError) -> str:
    """Format an error of the system as file, reason and hint."""
    name = error.filename2 or error.filename
    where = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
    hint = _HINTS.get(error.errno or 0)
    return f"{where}{error.strerror or error}" + (f": {hint}" if hint else "")


def _without_types(message: str) -> str:
    """Shorten jsonargparse's message for a wrong option by the types it tried and the whole value."""
    if "Does not validate against" not in message:
        return message
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    return " ".join(line for line in lines if not _NOISE.match(line))
