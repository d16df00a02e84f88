"""Variables of MATLAB 5 files are what SciPy has written; damaged files are named."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from egovlpv2.data_modules.mat_file import read_variable


def cells(*values: Any) -> np.ndarray:
    made = np.empty((len(values), 1), dtype=object)
    made[:, 0] = values
    return made


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64, np.int64])
def test_structs_cells_and_numbers(tmp_path: Path, compressed: bool, kind: type) -> None:
    structs = np.zeros((1, 2), dtype=[("one", object), ("another", object)])
    numbers = np.arange(6).reshape(2, 3).astype(kind)
    structs["one"][0] = [cells(numbers, numbers[:1]), np.zeros((0, 0))]
    structs["another"][0] = [numbers, cells()]
    savemat(tmp_path / "a.mat", {"other": numbers, "v": structs}, do_compression=compressed)
    first, second = read_variable(tmp_path / "a.mat", "v")
    assert np.array_equal(first["one"][0], numbers) and np.array_equal(first["one"][1], numbers[:1])
    assert np.array_equal(first["another"], numbers) and second["another"] == [] and second["one"].size == 0
    assert np.array_equal(read_variable(tmp_path / "a.mat", "other"), numbers)
    with pytest.raises(ValueError, match="a.mat has no variable w"):
        read_variable(tmp_path / "a.mat", "w")


def test_a_size_beyond_the_file_is_named(tmp_path: Path) -> None:
    """SciPy 1.17 ends the process on files of this sort."""
    savemat(tmp_path / "a.mat", {"v": cells(np.zeros((1, 2)))})
    raw = bytearray((tmp_path / "a.mat").read_bytes())
    for place, number, message in ((160, -1, "a size below 0"), (160, 2**30, "damaged"), (132, 2**31, "ends too")):
        changed = raw.copy()
        struct.pack_into("<I", changed, place, number & 0xFFFFFFFF)
        (tmp_path / "a.mat").write_bytes(changed)
        with pytest.raises(ValueError, match=f"a.mat is damaged, or not a MATLAB 5 file.*{message}|{message}"):
            read_variable(tmp_path / "a.mat", "v")
    for content in (b"", b"MATLAB 7.3", b"\x89HDF\r\n" * 40):
        (tmp_path / "a.mat").write_bytes(content)
        with pytest.raises(ValueError, match="a.mat is damaged, or not a MATLAB 5 file .it has no mark of MATLAB"):
            read_variable(tmp_path / "a.mat", "v")
    with pytest.raises(ValueError, match="can't be read"):
        read_variable(tmp_path, "v")
