"""Feature files: what is written is read, whole or not at all, and never mixed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from egovlpv2.features import FeatureFolder, Recipe, read_features
from egovlpv2.features.claims import claim
from egovlpv2.features.files import FeatureWriter, read_plain, read_recipe
from torch import Tensor

RECIPE = Recipe("dual", 6, 30.0, 16, 8, 4, 32, "0123456789abcdef")


def write(path: Path, recipe: Recipe = RECIPE, count: int = 5, queries: int = 0, words: int = 3) -> Tensor:
    """Writes drawn features in two pieces, and returns them as float32."""
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
        with pytest.raises(ValueError, match="a.safetensors is cut short or is no feature file"):
            read(path)


def test_other_files_are_named(tmp_path: Path, make_backbone) -> None:
    from egovlpv2.model.checkpoint import save_backbone

    save_backbone(make_backbone(), tmp_path / "weights.safetensors")
    for read in (read_features, read_recipe):
        with pytest.raises(ValueError, match="weights.safetensors is cut short or is no feature file"):
            read(tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match="b.safetensors: there is no such feature file"):
            read(tmp_path / "b.safetensors")


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
    first.drop()
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
