"""The pages of the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A fenced block, also one that is indented in a list.
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


class Line(NamedTuple):
    """A command of the project, as a page gives it."""

    page: str
    words: tuple[str, ...]  # `egovlpv2`, `make` or `sbatch` first
    in_block: bool  # or else in a sentence

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """Find the fenced blocks of a page."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"]) for match in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """Find the code spans of a page, on one line each."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(page))]


def commands() -> list[Line]:
    """Find every `egovlpv2`, `make` and `sbatch` command that has arguments, each once."""
    found: dict[tuple[str, ...], Line] = {}
    for page in PAGES:
        shell = [line for block in blocks(page) if block.language in ("bash", "console") for line in _lines(block)]
        for texts, in_block in ((shell, True), (spans(page), False)):
            for words in map(_words, texts):
                if len(words) > 1 and (in_block or words not in found):
                    found[words] = Line(str(page.relative_to(ROOT)), words, in_block)
    return list(found.values())


def _lines(block: Block) -> Iterator[str]:
    """The commands of a shell block: continued lines joined; of a console, the lines after a `$`."""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        if block.language == "bash" or line.startswith("$ "):
            yield line.removeprefix("$ ").strip()


def _words(text: str) -> tuple[str, ...]:
    """The words of a command of the project, without what stands before it; none for other texts."""
    if not re.match(r"([A-Z_]+=\S+ )*(\S*/)?(egovlpv2|make|sbatch|torchrun .*/egovlpv2)\b", text):
        return ()
    words = shlex.split(re.sub(r"^\S*torchrun .*?(?=\S*/egovlpv2 )", "", text), comments=True)
    while _VARIABLE.match(words[0]):
        words = words[1:]
    return (words[0].rpartition("/")[2], *words[1:])
