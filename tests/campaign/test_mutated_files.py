"""Feature and weight files with random damage: each is refused in one line that names it, or reads as it should.

    pytest -m slow -s tests/campaign/test_mutated_files.py
"""

import io
import json
import random
import signal
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.test_foreign_weights import released
from torch.nn.functional import normalize

from egovlpv2 import load_backbone
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.features import FeatureFolder, Recipe, read_features
from egovlpv2.features.files import FeatureWriter, read_recipe
from egovlpv2.model.backbone import Backbone
from egovlpv2.search.store import EmbeddingStore

pytestmark = pytest.mark.slow

COUNT = 200  # of each kind
LONGEST = 20  # seconds that a reader may take
# What a value of a header or a configuration becomes.
VALUES = [None, True, -1, 0, 1, 2, 193, 10**6, 10**12, 10**30, 0.5, -1.5, 1e308, "", "x", "dual", "dule", "fused",
          "é\0", [], [1], [None], {}, {"a": 1}, [[[]]], "NaN", "9" * 5000]


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flip(raw: bytes, draw: random.Random, first: int = 0, last: int | None = None) -> bytes:
    """Some bytes, one to eight, drawn anew."""
    damaged = bytearray(raw)
    for _ in range(draw.choice([1, 1, 2, 8])):
        damaged[draw.randrange(first, last or len(raw))] = draw.randrange(256)
    return bytes(damaged)


def cut(raw: bytes, draw: random.Random) -> bytes:
    """Cut short, a piece taken out or put in, or more at the end."""
    place, length = draw.randrange(len(raw)), draw.choice([1, 8, 100, 5000])
    return draw.choice([raw[:place], raw[:place] + raw[place + length :], raw + draw.randbytes(length),
                        raw[:place] + draw.randbytes(length) + raw[place:]])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a plain value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def change(value: Any, draw: random.Random) -> Any:
    """A plain value with one of its values another, or left out, or with one key more."""
    copied = json.loads(json.dumps(value))
    *way, last = draw.choice(list(places(copied)))
    inside = copied
    for key in way:
        inside = inside[key]
    how = draw.random()
    if how < 0.15:
        del inside[last]
    elif how < 0.25 and isinstance(inside, dict):
        inside[f"{last}s"] = draw.choice(VALUES)
    else:
        inside[last] = draw.choice(VALUES)
    return copied


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a `.safetensors` file, and its tensors."""
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def mutate_safetensors(raw: bytes, draw: random.Random) -> bytes:
    """Damage of the header, of the plain part in it, of the tensors, or of the file."""
    header, body = split(raw)
    how = draw.choice(["plain", "plain", "plain", "header", "header bytes", "numbers", "flip", "cut"])
    if how == "plain":
        plain = json.loads(header["__metadata__"]["egovlpv2"])
        header["__metadata__"]["egovlpv2"] = json.dumps(change(plain, draw))
        return join(header, body)
    if how == "header":
        return join(change(header, draw), body)
    if how == "header bytes":
        return flip(raw, draw, 0, len(raw) - len(body))
    if how == "numbers":
        damaged, place = bytearray(body), draw.randrange(len(body) // 4) * 4
        damaged[place : place + 4] = draw.choice([b"\xff\xff\xff\x7f", b"\x00\x7c\x00\x7c", b"\x00\x00\x80\x7f"])
        return join(header, bytes(damaged))
    return flip(raw, draw) if how == "flip" else cut(raw, draw)


def mutate_archive(raw: bytes, draw: random.Random) -> bytes:
    """Damage of the pickle, of the list at the archive's end, of any byte, or of the file."""
    pickle = raw.index(b"data.pkl")
    how = draw.choice(["pickle", "pickle", "end", "flip", "cut"])
    if how == "pickle":
        return flip(raw, draw, pickle, raw.index(b"PK", pickle))
    return flip(raw, draw, raw.rindex(b"PK\x01\x02")) if how == "end" else (flip if how == "flip" else cut)(raw, draw)


def mutate_pickle(raw: bytes, draw: random.Random) -> bytes:
    """An archive whose pickle is damaged and whose checksums fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive, zipfile.ZipFile(out, "w") as damaged:
        for name in archive.namelist():
            content = archive.read(name)
            damaged.writestr(name, draw.choice([flip, flip, cut])(content, draw) if name.endswith(".pkl") else content)
    return out.getvalue()


def campaign(path: Path, mutate: Callable[[bytes, random.Random], bytes], readers: list[Callable[[], Any]],
             same: Callable[[Any, Any], bool], count: int) -> Counter[str]:
    """Damage a file again and again, and open it with each reader.

    Args:
        path: The file, whole.
        mutate: Gives a damaged one.
        readers: What opens it.
        same: Whether what a reader gives is what it gave of the whole file, as far as the format tells.
        count: How often.
    """
    raw, ends = path.read_bytes(), Counter[str]()
    expected = [read() for read in readers]
    for seed in range(count):
        path.write_bytes(mutate(raw, random.Random(f"{path.name} {seed}")))
        for read, whole in zip(readers, expected, strict=True):
            with no_longer_than(LONGEST):
                try:
                    found = read()
                except ValueError as error:
                    text = str(error)
                    assert path.name in text and "\n" not in text, f"seed {seed}: {text}"
                    ends["refused"] += 1
                    continue
            assert same(found, whole), f"seed {seed}: other values"
            ends["read"] += 1
    path.write_bytes(raw)
    return ends


@pytest.mark.parametrize("kind", ["dual", "fused", "unit"])
def test_damaged_feature_files_are_named(tmp_path: Path, kind: str) -> None:
    path, per_query = tmp_path / "mutated.safetensors", (3,) if kind == "fused" else ()
    generator = torch.Generator().manual_seed(0)
    values = normalize(torch.randn(20, *per_query, 16, generator=generator), dim=-1)
    asked = (["a", "b", "c"], torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)) if kind == "fused" else ()
    with path.open("wb") as file:
        writer = FeatureWriter(file, Recipe(kind, 16, 1000.0, 2000, 500, 4, 32, "0" * 16), 11.5, 20, *asked)
        writer.append(values)
        writer.finish()
    readers = [lambda: read_features(path), lambda: read_recipe(path),
               lambda: list(FeatureFolder(tmp_path).pieces("mutated", 7))]
    if kind == "unit":
        readers.append(lambda: EmbeddingStore(tmp_path).topk(torch.ones(16) / 4, 3))

    def sound(found: Any, whole: Any) -> bool:
        """Flipped bits may give other numbers, which no checksum tells; shapes and bounds are told."""
        if isinstance(found, list) and isinstance(found[0], torch.Tensor):
            found, whole = torch.cat(found), torch.cat(whole)
            return found.shape == whole.shape and bool(found.isfinite().all())
        if isinstance(found, list):
            return all(abs(moment.cosine) <= 1.01 for moment in found)
        recipe = found if isinstance(found, Recipe) else found.recipe
        if min(recipe.width, recipe.window, recipe.stride, recipe.frames, recipe.size, recipe.fps) <= 0:
            return False
        return isinstance(found, Recipe) or (found.values.shape == whole.values.shape
                                             and bool(found.values.isfinite().all() and found.words.isfinite().all()))

    print(kind, dict(campaign(path, mutate_safetensors, readers, sound, COUNT // 3 + 1)))


@pytest.mark.parametrize("suffix, mutate", [
    (".safetensors", mutate_safetensors), (".ckpt", mutate_archive), (".ckpt", mutate_pickle), (".pth", mutate_archive),
    (".pth", mutate_pickle)])
def test_damaged_weight_files_are_named(make_backbone: Callable[..., Backbone], tmp_path: Path, suffix: str,
                                        mutate: Callable[[bytes, random.Random], bytes]) -> None:
    backbone, path = make_backbone(), tmp_path / f"mutated{suffix}"
    if suffix == ".safetensors":
        save_backbone(backbone, path)
    else:
        state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
        content = {"state_dict": state, "epoch": 3, "egovlpv2": {"backbone": backbone.config.to_dict()}}
        torch.save(content if suffix == ".ckpt" else {"state_dict": released()}, path)

    def read() -> dict[str, torch.Tensor] | str:
        try:
            return load_backbone(path).state_dict()
        except ValueError as error:
            if suffix == ".pth" and "missing video_tower.cls_token" in str(error):
                return "as whole as it is"  # read to its end: a released model of its own size takes minutes
            raise

    def sound(found: Any, whole: Any) -> bool:
        if isinstance(found, tuple | str):
            return True
        if mutate is mutate_archive:  # the archive's checksums tell each changed bit of a tensor
            return all(torch.equal(found[name], tensor) for name, tensor in whole.items())
        return all(bool(found[name].isfinite().all()) for name in whole)

    readers = [read] if suffix == ".pth" else [read, lambda: read_answer_head(path)]
    print(suffix, mutate.__name__, dict(campaign(path, mutate, readers, sound, COUNT // 5)))
