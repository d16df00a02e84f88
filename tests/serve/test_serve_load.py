"""Many clients at once, for a while: `python tests/serve/load.py INDEX` does so for longer."""

from pathlib import Path

import pytest
from serve.load import run
from serve.serving import write_head, write_index


@pytest.mark.slow
def test_fifty_clients_for_a_while(tmp_path: Path) -> None:
    made = write_index(tmp_path)
    load = run(made, write_head(tmp_path), clients=50, seconds=40, queries=("w17 w203 w41", "w5 w6 w7", "w9 w10 w11"))
    assert not load.failed and load.statuses["search", 200] > 50 and load.statuses["play", 206] > 50
    before, after = load.grown()
    assert after < 1.2 * before, load
