"""The configurations that ship with the package: `egovlpv2 configs`."""

from dataclasses import dataclass
from pathlib import Path

from egovlpv2.command.signature import source_of
from egovlpv2.io.files import atomic_write


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
        width = max(len(path.as_posix()) for path in self.files) + 2
        lines = [f"  {path.as_posix():<{width}}{_headline(self.folder / path)}" for path in self.files]
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
    """The first comment of a config."""
    line = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")), "")
    return line.removeprefix("# ")
