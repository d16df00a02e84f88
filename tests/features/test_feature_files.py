"""Feature files: a file read equals the one written, is complete or absent, and never mixes recipes."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from egovlpv2.features import FeatureFolder, Recipe, read_features
from egovlpv2.features.files import FeatureWriter, read_plain, read_recipe
from egovlpv2.features.locks import claim

RECIPE = Recipe("dual", 6, 30.0, 16, 8, 4, 32, "0123456789abcdef")


def write(path: Path, recipe: Recipe = RECIPE, count: int = 5, queries: int = 0, words: int = 3) -> Tensor:
    """Write drawn features in two pieces, and returns them as float32."""
    torch.manual_seed(count)
    per_query = (queries,) if recipe.kind == "fused" else ()
    values = torch.randn(count, *per_query, recipe.width)
    asked = ([f"Where is the cup {i}? é" for i in range(queries)], torch.randn(queries, words, 7),
             torch.rand(queries, words) > 0.5) if queries else ()
    with path.open("wb") as file:
        writer = FeatureWriter(file, recipe, 2.5, count, *asked)
        writer.append(values[:2])
        writer.append(values[2:])
        writer.finish()
    return values


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = write(tmp_path / "a.safetensors")
    features = read_features(tmp_path / "a.safetensors")
    assert features.recipe == RECIPE and features.duration == 2.5 and features.queries == []
    assert features.recipe.rate == 30 / 8 and features.words.shape == (0, 0, 0) and features.word_mask.shape == (0, 0)
    assert features.values.dtype == torch.float16 and torch.equal(features.values, values.half())


@pytest.mark.parametrize("kind", ["projected", "fused"])
@pytest.mark.parametrize("words", [3, 4])  # an odd number of bytes of masks, an even one
def test_words_come_along(tmp_path: Path, kind: str, words: int) -> None:
    recipe = replace(RECIPE, kind=kind, width=5)
    values = write(tmp_path / "a.safetensors", recipe, count=3, queries=3, words=words)
    torch.manual_seed(3)
    torch.randn(values.shape)
    expected, mask = torch.randn(3, words, 7), torch.rand(3, words) > 0.5
    features = read_features(tmp_path / "a.safetensors")
    assert torch.equal(features.values, values.half()) and features.values.ndim == (3 if kind == "fused" else 2)
    assert torch.equal(features.words, expected.half()) and torch.equal(features.word_mask, mask)
    assert features.queries == [f"Where is the cup {i}? é" for i in range(3)]
    assert read_plain(tmp_path / "a.safetensors") == (recipe, features.queries)


def test_pieces_reach_the_file_as_they_come(tmp_path: Path) -> None:
    recipe = replace(RECIPE, width=1000)
    with (tmp_path / "a").open("wb") as file:
        writer, sizes = FeatureWriter(file, recipe, 100.0, 40), []
        for _ in range(4):
            writer.append(torch.zeros(10, 1000))
            sizes.append(os.fstat(file.fileno()).st_size)
        writer.finish()
    assert all(later - sooner >= 10_000 for sooner, later in zip(sizes, sizes[1:], strict=False))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    write(path, queries=2)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    for read in (read_features, read_recipe, lambda path: FeatureFolder(path.parent)):
        with pytest.raises(ValueError, match="a.safetensors is (cut short or is not a feature|an empty) file"):
            read(path)


def test_other_files_are_named(tmp_path: Path, make_backbone) -> None:
    from egovlpv2.checkpoints.weights import save_backbone

    save_backbone(make_backbone(), tmp_path / "weights.safetensors")
    for read in (read_features, read_recipe):
        with pytest.raises(ValueError, match="weights.safetensors is cut short or is not a feature file"):
            read(tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match="b.safetensors: there is no such feature file"):
            read(tmp_path / "b.safetensors")


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the header of a feature file, `change(header, plain)`, and keep its tensors."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    plain = json.loads(header["__metadata__"]["egovlpv2"])
    change(header, plain)
    header["__metadata__"] = {"egovlpv2": json.dumps(plain)} if plain else {}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


READERS = [read_features, read_recipe, lambda path: FeatureFolder(path.parent),
           lambda path: FeatureFolder(path.parent).count(path.stem)]


@pytest.mark.parametrize("changes, message", [
    ({"kind": "dule"}, "recipe.kind: Invalid enum value 'dule'"), ({"width": 7}, "`features` is F16 .5, 6. .*width 7"),
    ({"width": 0}, "recipe.width: Expected `int` >= 1"), ({"width": "6"}, "recipe.width: Expected `int`, got `str`"),
    ({"stride": 0}, "recipe.stride: Expected `int` >= 1"), ({"stride": 8.5}, "recipe.stride: Expected `int`"),
    ({"fps": "x"}, "recipe.fps: Expected `float`, got `str`"), ({"fps": 0}, "recipe.fps: Expected `float` > 0"),
    ({"fps": float("nan")}, "NaN is not a number of JSON"),
    ({"window": None}, "recipe.window: Expected `int`, got `null`"),
    ({"stride": 900}, "5 windows, one every 30 s, don't lie in a video of 2.5 s"),
    ({"checkpoint": 5}, "recipe.checkpoint: Expected `str`"), ({"kinds": "dual"}, "unknown key recipe.kinds"),
    ({"kind": "fused"}, "`features` is F16 .5, 6. .*kind fused"), ({"kind": "trunk"}, "`features` is F16 .5, 6."),
])
def test_a_recipe_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    rewrite(path, lambda _, plain: plain["recipe"].update(changes))
    for read in READERS:
        with pytest.raises(ValueError, match=f"a.safetensors.*{message}"):
            read(path)


@pytest.mark.parametrize("change, message", [
    (lambda _, plain: plain.update(duration=float("nan")), "NaN is not a number of JSON"),
    (lambda _, plain: plain.update(duration=-1), "duration: Expected `float` >= 0"),
    (lambda _, plain: plain.update(queries="all"), "queries: Expected `array`, got `str`"),
    (lambda _, plain: plain.update(queries=["a", 2]), r"queries\[1\]: Expected `str`, got `int`"),
    (lambda _, plain: plain["queries"].pop(), r"`features` is F16 \(5, 3, 6\) .*2 queries"),
    (lambda _, plain: plain.pop("recipe"), "missing required field `recipe`"),
    (lambda _, plain: plain.clear(), "is cut short or is not a feature file"),
    (lambda header, _: header.update(more=header.pop("words")), "holds a tensor 'more'"),
    (lambda header, _: header["features"].update(dtype="BF16"), r"`features` is BF16 \(5, 3, 6\)"),
    (lambda header, _: header["features"].update(shape=[3, 5, 6]), r"`features` is F16 \(3, 5, 6\) .*\(3, 3, 6\)"),
    (lambda header, _: header["word_mask"].update(dtype="U8"), "`word_mask` is U8"),
    (lambda header, _: header["words"].update(shape=[3, 7, 3]), r"`word_mask` is BOOL \(3, 3\)"),
])
def test_a_header_that_does_not_tell_of_its_tensors_is_named(tmp_path: Path, change: Callable[..., Any],
                                                             message: str) -> None:
    path = tmp_path / "a.safetensors"
    write(path, replace(RECIPE, kind="fused"), queries=3)
    rewrite(path, change)
    for read in READERS:
        with pytest.raises(ValueError, match=f"a.safetensors.*{message}"):
            read(path)


@pytest.mark.parametrize("kind, value, message", [
    ("dual", float("nan"), "is not finite"), ("dual", float("inf"), "is not finite"), ("unit", 0.0, "is zero"),
    ("unit", float("nan"), "is not finite"), ("unit", 1.0, "has length 2.83, not 1"),
    ("unit", 8**-0.5, "has the same number in each place"),
])
def test_features_that_nothing_can_be_made_of_are_named_when_written_and_when_read(
        tmp_path: Path, kind: str, value: float, message: str) -> None:
    path, recipe = tmp_path / "a.safetensors", replace(RECIPE, kind=kind, width=8, stride=1)
    values = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    with path.open("wb") as file:
        writer = FeatureWriter(file, recipe, 2.5, 60)
        writer.append(values)
        writer.finish()
    stored = read_features(path).values.clone()
    raw = bytearray(path.read_bytes())
    values[55] = value
    stored[55] = value
    raw[-stored.numel() * 2 :] = stored.numpy().tobytes()
    path.write_bytes(raw)
    pieces = FeatureFolder(tmp_path).pieces("a", 7)
    for read in (lambda: read_features(path), lambda: [*pieces]):
        with pytest.raises(ValueError, match=f"a.safetensors: the feature of window 55 {message}"):
            read()
    with (tmp_path / "b.safetensors.partial").open("wb") as file:
        writer = FeatureWriter(file, recipe, 2.5, 60)
        writer.append(values[:30])
        with pytest.raises(ValueError, match=f"b.safetensors: the feature of window 55 {message}"):
            writer.append(values[30:])


def test_numbers_too_large_for_float16_and_words_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        with pytest.raises(ValueError, match="window 0 is not finite .*too large for float16"):
            FeatureWriter(file, RECIPE, 2.5, 1).append(torch.full((1, 6), 1e5))
        words = torch.ones(2, 3, 7)
        words[1, 2, 3] = torch.nan
        with pytest.raises(ValueError, match="the words of query 1 are not finite"):
            FeatureWriter(file, RECIPE, 2.5, 1, ["a", "b"], words, torch.ones(2, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match="recipe.stride: Expected `int` >= 1"):
            FeatureWriter(file, replace(RECIPE, stride=0), 2.5, 1)
        for duration in ("nan", "inf"):
            with pytest.raises(ValueError, match=r"a: duration(: Expected `float` >= 0.0| is inf)"):
                FeatureWriter(file, RECIPE, float(duration), 1)


def test_a_folder_gives_its_files(tmp_path: Path) -> None:
    values = write(tmp_path / "a.b.safetensors")
    write(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors.partial").write_bytes(b"begun")
    folder = FeatureFolder(tmp_path)
    assert folder.names == {"a.b", "c"} and folder.recipe == RECIPE
    assert torch.equal(folder.read("a.b").values, values.half())
    with pytest.raises(ValueError, match="d.safetensors: there is no such feature file"):
        folder.read("d")


@pytest.mark.parametrize(("field", "value"), [
    ("kind", "projected"), ("width", 7), ("fps", 29.97), ("window", 32), ("stride", 16), ("frames", 8), ("size", 224),
    ("checkpoint", "f" * 16)])
def test_a_folder_refuses_a_mix(tmp_path: Path, field: str, value: str | float) -> None:
    write(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", replace(RECIPE, **{field: value}))
    with pytest.raises(ValueError, match=rf"a.safetensors and b.safetensors .*\({field} .*{getattr(RECIPE, field)} and"
                                         rf" {value}\)"):
        FeatureFolder(tmp_path)


def test_a_mix_names_all_differences(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", replace(RECIPE, stride=4, checkpoint="another"))
    with pytest.raises(ValueError, match=r"stride 8 and 4; checkpoint 0123456789abcdef and another"):
        FeatureFolder(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no feature files"):
            FeatureFolder(folder)


def test_one_claim_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    first = claim(path)
    assert claim(path) is None
    first.release()
    assert not [*tmp_path.iterdir()]
    second = claim(path)
    second.draft.write(b"whole")
    assert claim(path) is None and not path.exists()
    second.finish()
    assert claim(path) is None and path.read_bytes() == b"whole" and [*tmp_path.iterdir()] == [path]


def test_what_a_killed_process_left_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_bytes(b"begun by a process that is gone")
    taken = claim(tmp_path / "a")
    taken.draft.write(b"whole")
    taken.finish()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_file_that_is_finished_while_we_look_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"whole")
    answers = iter([False])
    monkeypatch.setattr(Path, "exists", lambda self: next(answers, True))
    assert claim(tmp_path / "a") is None
    assert (tmp_path / "a").read_bytes() == b"whole" and os.listdir(tmp_path) == ["a"]


def test_features_of_the_former_crop_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    rewrite(path, lambda _, plain: [plain["recipe"].pop(name) for name in ("crop", "frame_rule")])
    with pytest.raises(ValueError, match="a.safetensors, header: the features are of an earlier version, .* run "
                                         "`egovlpv2 extract` .or `index`. again"):
        read_features(path)


def test_another_frame_rule_is_another_recipe(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", replace(RECIPE, frame_rule="released"))
    with pytest.raises(ValueError, match=r"don't go together \(frame_rule centre and released\)"):
        FeatureFolder(tmp_path)
