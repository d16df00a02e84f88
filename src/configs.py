"""The configurations that ship with the package: `egovlpv2 configs`."""

import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

from egovlpv2.command.signature import source_of
from egovlpv2.io.files import atomic_write

_PROSE = re.compile("# \\S")  # commands in comments are indented
_LONG = 10_000  # columns of a file or a pipe


@dataclass(frozen=True)
class Configs:
    """Configurations in a folder.

    Args:
        folder: Where they are.
        files: Paths in it.
    """

    folder: Path
    files: list[Path]

    def __str__(self) -> str:
        width = max(len(path.as_posix()) for path in self.files) + 4
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _LONG
        fill = textwrap.TextWrapper(max(columns, 2 * width), subsequent_indent=" " * width, break_long_words=False,
                                    break_on_hyphens=False).fill
        lines = [fill("  " + path.as_posix().ljust(width - 2) + _headline(self.folder / path)) for path in self.files]
        return "\n".join([f"{self.folder}:", *lines])


def list_configs(*, out: str | Path | None = None) -> Configs:
    """List the configs that ship with the package, or copy them.

    Args:
        out: copy them into this folder; files that are there already stay

    Raises:
        ValueError: A file of the folder is another one than would be copied.
    """
    shipped = source_of("egovlpv2.conf").parent
    files = sorted(path.relative_to(shipped) for path in shipped.rglob("*") if path.suffix in (".yaml", ".slurm"))
    if out is None:
        return Configs(shipped, files)
    target = Path(out)
    changed = [path for path in files if (target / path).is_file()
               and (target / path).read_bytes() != (shipped / path).read_bytes()]
    if changed:
        raise ValueError(f"{target / changed[0]} is there and differs from the config that ships: give another --out, "
                         "or move it")
    for path in files:
        if not (target / path).exists():
            with atomic_write(target / path) as draft:
                draft.write_bytes((shipped / path).read_bytes())
    return Configs(target, files)


def _headline(path: Path) -> str:
    """The first sentence of a config's first comment."""
    lines = dropwhile(lambda line: not _PROSE.match(line), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("# ") for line in takewhile(_PROSE.match, lines))
    return re.split(r"(?:(?<=\.)(?<!Sec\.)|(?<=\.slurm)) (?=[A-Z`])", text)[0]
