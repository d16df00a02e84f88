"""A thousand damaged annotation files: each is read as what it is, or refused in one line that names the file."""

import random
from pathlib import Path

import pytest
from annotation_files import Format, formats
from mutations import ANY, OF_JSON, OF_ROWS

FORMATS = formats()
SEEDS = 68  # of each format, 1,020 in all


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def mutated(kind: Format, draw: random.Random) -> dict[str, bytes]:
    name = draw.choice(kind.mutated)
    operators = {".json": OF_JSON, ".csv": OF_ROWS, ".txt": OF_ROWS}.get(Path(name).suffix, ANY)
    return kind.files | {name: draw.choice(operators)(kind.files[name], draw)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_undamaged_files_are_read(name: str, tmp_path: Path) -> None:
    write(tmp_path, FORMATS[name].files)
    if name == "relevancy":  # its own file was made of other labels
        with pytest.raises(ValueError, match=r"r.safetensors was computed from other labels"):
            FORMATS[name].load(tmp_path)
        return
    FORMATS[name].load(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_named(name: str, tmp_path: Path) -> None:
    refused = 0
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        write(folder, mutated(FORMATS[name], random.Random(f"{name} {seed}")))
        try:
            FORMATS[name].load(folder)
        except ValueError as error:
            refused += 1
            assert f"{folder}/" in str(error) and "\n" not in str(error), (seed, str(error))
            assert len(str(error)) < 1000, (seed, str(error)[:2000])
    print(f"{name}: {refused} of {SEEDS} refused")
    assert refused > 0.3 * SEEDS
