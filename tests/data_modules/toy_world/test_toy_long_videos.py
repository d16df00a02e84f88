"""The toy world's long videos, with tags and oracle summaries in the format of QFVS."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from toy_helpers import SMALL, files_of

from egovlpv2.data_modules.toy_world import write
from egovlpv2.data_modules.toy_world.script import SCENES, Video
from egovlpv2.data_modules.toy_world.summary_formats import long_videos, queries, summary, write_qfvs
from egovlpv2.data_modules.toy_world.vocabulary import NOUNS

LONG = ("P01", "P02", "P03", "P04")


def _filmed(world: Path, name: str, videos: list[Video]) -> list[tuple[Video, int]]:
    """The video and the number of each file that a long video of QFVS shows."""
    folder = world / "qfvs" / "videos" / name
    paths = [folder / f"{i}.mp4" for i in range(len(list(folder.iterdir())))]
    assert all(path.is_symlink() and not path.readlink().is_absolute() and path.is_file() for path in paths)
    films = [path.resolve() for path in paths]
    return [(next(video for video in videos if video.uid == film.parent.name), int(film.stem)) for film in films]


def _use(filmed: list[tuple[Video, int]], chunk: int) -> list[Counter[str]]:
    """Hundredths of a second of use of each concept in each shot of 5 s, counted one by one."""
    nouns: list[str | None] = []
    for video, k in filmed:
        part: list[str | None] = [None] * (100 * chunk)
        for event in video.events:
            for i in range(round(100 * event.start), round(100 * event.end)):
                if event.wearer == "C" and i // (100 * chunk) == k:
                    part[i % (100 * chunk)] = event.noun
        nouns += part
    return [Counter(filter(None, nouns[first : first + 500])) for first in range(0, len(nouns) // 500 * 500, 500)]


def _tags(use: list[Counter[str]]) -> list[list[str]]:
    """The nouns that are used for half a second of a shot."""
    return [sorted(concept for concept, count in shot.items() if count >= 50) for shot in use]


def test_long_videos_show_all_that_pre_training_never_saw(world: Path, videos: list[Video]) -> None:
    filmed = [_filmed(world, name, videos) for name in LONG]
    chunk = SMALL["chunk_seconds"]
    assert Counter((video.uid, k) for part in filmed for video, k in part) == Counter(
        (video.uid, k) for video in videos if video.split != "train" for k in range(int(video.duration // chunk)))
    script = write.World().script()
    found = long_videos(script, 20)
    rooms = {scene for split in ("val", "test") for scene in SCENES[split]}
    scenes = {video.uid: video.scene for video in script}
    shown = [chunk for video in found for chunk in video.chunks]
    assert len(shown) == len(set(shown)) and any(k > 0 for _, k in shown)
    for video in found:
        assert {scenes[uid] for uid, _ in video.chunks} == rooms
        assert len(video.use) == len(video.chunks) * 20 // 5 > 50
        assert len(queries(video)) == 15
        for (uid, k), (other, later) in zip(video.chunks, video.chunks[1:], strict=False):
            assert later == (k + 1 if uid == other else 0)


def test_tags_are_what_the_wearer_uses(world: Path, videos: list[Video]) -> None:
    folder = world / "qfvs" / "Dense_per_shot_tags"
    concepts = (folder / "Dictionary.txt").read_text().split("\n")
    assert concepts == [f"'{noun}'" for noun in sorted(NOUNS)] and len(concepts) == 24
    vectors = loadmat(world / "qfvs" / "Tags.mat")["Tags"]["Bin_Vecs"]
    assert vectors.shape == (1, 4)
    several = 0
    for i, name in enumerate(LONG):
        filmed = _filmed(world, name, videos)
        use = _use(filmed, SMALL["chunk_seconds"])
        lines = (folder / name / f"{name}.txt").read_text().splitlines()
        assert len(lines) == len(use) == len(filmed) * SMALL["chunk_seconds"] // 5 > 0
        tags = [",".join(shot) for shot in _tags(use)]
        assert lines == tags and any(tags)
        several += len(lines) > 2  # the second shot begins in a file of 7 s and ends in the next
        assert vectors[0, i].shape == (len(use), 1)
        for line, (row,) in zip(lines, vectors[0, i], strict=True):
            assert row.shape == (1, 24) and row.dtype == np.uint8
            assert ",".join(concepts[place].strip("'") for place in np.flatnonzero(row)) == line
    assert several


def test_oracles_are_the_shots_with_the_most_use(world: Path, videos: list[Video]) -> None:
    asked = 0
    for name in LONG:
        use = _use(_filmed(world, name, videos), SMALL["chunk_seconds"])
        for path in (world / "qfvs" / "Oracle_Summaries" / name).iterdir():
            first, second, end = path.name.split("_")
            assert end == "oracle.txt" and first != second and {first.lower(), second.lower()} <= set(NOUNS)
            numbers = [int(line) for line in path.read_text().splitlines()]
            assert numbers == sorted(set(numbers)) and 1 <= numbers[0] and numbers[-1] <= len(use)
            assert len(numbers) == max(1, round(0.05 * len(use)))
            amount = [shot[first] + shot[second] if max(shot[first], shot[second]) >= 50 else 0 for shot in use]
            assert numbers == sorted(sorted(range(1, len(use) + 1), key=lambda n: (-amount[n - 1], n))[: len(numbers)])
            assert all(amount[number - 1] for number in numbers)
            asked += 1
    assert asked >= 4


def test_queries_of_a_long_video() -> None:
    """Of 15 pairs, at least five meet in a shot; each concept shows twice."""
    script = {video.uid: video for video in write.World().script()}
    for video in long_videos(list(script.values()), 20):
        tags, found = video.tags(), queries(video)
        assert tags == _tags(_use([(script[uid], k) for uid, k in video.chunks], 20))
        count = Counter(concept for shot in tags for concept in shot)
        assert len(set(found)) == 15 and found == queries(video)
        assert all(first < second and count[first] > 1 < count[second] for first, second in found)
        assert 5 <= sum(any({*query} <= {*shot} for shot in tags) for query in found) < 15
        for query in found:
            best = summary(video, query)
            assert 1 <= len(best) <= round(0.05 * len(tags)) and all({*query} & {*tags[shot - 1]} for shot in best)


def test_long_videos_of_an_earlier_world_make_way(world: Path, videos: list[Video], tmp_path: Path) -> None:
    link, oracle = (tmp_path / "qfvs" / name for name in ("videos/P01/99.mp4", "Oracle_Summaries/P02/A_B_oracle.txt"))
    for path in (link, oracle):
        path.parent.mkdir(parents=True)
    link.symlink_to("gone.mp4")
    oracle.write_text("1\n")
    write_qfvs(videos, tmp_path, SMALL["chunk_seconds"], write.write_text)
    assert not link.is_symlink() and (link.parent / "0.mp4").is_symlink()
    written = files_of(tmp_path, ".txt", ".mat")
    assert written == {name: data for name, data in files_of(world, ".txt", ".mat").items() if name.startswith("qfvs/")}
    assert "qfvs/Tags.mat" in written


def test_a_world_that_fills_no_file_has_empty_long_videos(videos: list[Video], tmp_path: Path) -> None:
    write_qfvs([replace(video, duration=3.0) for video in videos], tmp_path, 7, write.write_text)
    assert [len(cells) for cells in loadmat(tmp_path / "qfvs" / "Tags.mat")["Tags"]["Bin_Vecs"][0]] == [0] * 4
    dense = tmp_path / "qfvs" / "Dense_per_shot_tags"
    assert [(dense / name / f"{name}.txt").read_text() for name in LONG] == [""] * 4
    assert not list((tmp_path / "qfvs").glob("Oracle_Summaries/*/*"))
