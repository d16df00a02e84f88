"""What was found, as clips with the frames and sound of their moments, and as lists that players and editors read."""

import csv
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video.numbered_videos import numbers, picture, write_video

from egovlpv2.video.collection import VideoSource, find_videos
from egovlpv2.video.container import VideoError
from egovlpv2.video.excerpt import write_excerpt
from egovlpv2.video.export import check_targets, write_moments
from egovlpv2.video.moment_lists import FoundMoment
from egovlpv2.video.sound import RATE, read_sound

FPS, SOUND = 10, 44_100
CLICKS = (1.0, 2.5, 4.03, 7.77)  # seconds of a film


def write_film(path: Path, seconds: float = 9.0, clicks: tuple[float, ...] = CLICKS, first: int = 0) -> Path:
    """Numbered pictures, and clicks."""
    silent = write_video(path.with_name(f"silent-{path.name}"), fps=FPS, gop=10,
                         pictures=[picture(first + i) for i in range(int(seconds * FPS))])
    samples = np.zeros((1, int(seconds * SOUND)), np.float32)
    for click in clicks:
        samples[0, int(click * SOUND) : int(click * SOUND) + 90] = 0.9
    with av.open(str(silent)) as before, av.open(str(path), "w") as out:
        video, audio = out.add_stream_from_template(before.streams.video[0]), out.add_stream("aac", rate=SOUND,
                                                                                             layout="mono")
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
        for place in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, place : place + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = SOUND, place
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    silent.unlink()
    return path


@pytest.fixture
def film(tmp_path: Path) -> VideoSource:
    return find_videos([write_film(tmp_path / "film.mp4")])[0]


def clicks_of(samples: np.ndarray) -> list[float]:
    """Times at which a sound (channels, n) at `RATE` becomes loud."""
    loud = np.flatnonzero(np.abs(samples).max(0) > 0.3)
    return [loud[0] / RATE, *(loud[1:][np.diff(loud) > RATE // 10] / RATE)] if len(loud) else []


def played(path: Path) -> tuple[list[int], np.ndarray | None]:
    """The numbers that a video shows, and its sound."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        duration = float(container.streams.video[0].duration * container.streams.video[0].time_base)
        heard = bool(container.streams.audio)
    sound = read_sound(find_videos([path])[0], 600.0, 0.0, duration) if heard else None
    return numbers(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)), sound


def moment(source: VideoSource, start: float, end: float, label: str = "#C C opens the jar", score: float = 0.5
           ) -> FoundMoment:
    return FoundMoment(source, 5.0, start, end, label, score)


@pytest.mark.parametrize("sound", [False, True])
def test_clips_have_the_frames_and_the_sound_of_their_moments(film: VideoSource, tmp_path: Path, sound: bool) -> None:
    found = [moment(film, 2.0, 4.5), moment(film, 0.0, 1.2), moment(film, 7.32, 9.0)]
    paths = write_moments([tmp_path / "clips"], found, sound) if (tmp_path / "clips").mkdir() is None else []
    assert [path.name for path in paths] == ["001-film-2.0-4.5.mp4", "002-film-0.0-1.2.mp4", "003-film-7.3-9.0.mp4"]
    for path, one in zip(paths, found, strict=True):
        shown, heard = played(path)
        expected = [int((one.start + (i + 0.5) / FPS) * FPS) for i in range(round((one.end - one.start) * FPS))]
        assert shown == expected
        assert (heard is not None) == sound
        if heard is not None:
            near = [click - one.start for click in CLICKS if one.start <= click < one.end]
            assert clicks_of(heard) == pytest.approx(near, abs=0.03)  # less than a frame; AAC smears clicks


def test_sound_goes_on_from_chunk_to_chunk(tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    write_film(tmp_path / "long" / "0.mp4", 5.0, (1.0, 4.5))
    write_film(tmp_path / "long" / "1.mp4", 5.0, (0.5, 2.0), first=50)
    (source,) = find_videos([tmp_path / "long"])
    assert clicks_of(read_sound(source, 5.0, 4.0, 8.0)) == pytest.approx([0.5, 1.5, 3.0], abs=0.03)
    write_excerpt(source, 5.0, [(0.8, 1.5), (4.0, 6.0)], tmp_path / "a.mp4", FPS, sound=True)
    shown, heard = played(tmp_path / "a.mp4")
    assert shown == [*range(8, 15), *range(40, 60)] and heard is not None
    assert clicks_of(heard) == pytest.approx([0.2, 0.7 + 0.5, 0.7 + 1.5], abs=0.03)


def test_videos_without_a_sound_give_clips_without(tmp_path: Path) -> None:
    (source,) = find_videos([write_video(tmp_path / "mute.mp4", fps=FPS, pictures=[picture(i) for i in range(30)])])
    (tmp_path / "clips").mkdir()
    (path,) = write_moments([tmp_path / "clips"], [moment(source, 1.0, 2.0)], sound=True)
    assert played(path) == (list(range(10, 20)), None)
    assert np.abs(read_sound(source, 600.0, 0.0, 1.0)).max() == 0


ODD = 'cuts "bread",\nthen <i>--> & butter'


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_subtitles_are_read_by_a_player(film: VideoSource, tmp_path: Path, suffix: str) -> None:
    found = [moment(film, 4.0, 5.25, ODD), moment(film, 1.0, 2.0), moment(film, 3601.5, 3602.0, score=0.25)]
    assert write_moments([tmp_path / f"a{suffix}"], found) == [tmp_path / f"a{suffix}"]
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        stream = container.streams.subtitles[0]
        tick = stream.time_base
        cues = [(float(packet.pts * tick), float(packet.duration * tick), bytes(packet).decode())
                for packet in container.demux(stream) if packet.size]
    assert np.array([cue[:2] for cue in cues]) == pytest.approx(np.array([(1.0, 1.0), (4.0, 1.25), (3601.5, 0.5)]))
    assert [cue[2] for cue in cues][::2] == ["#C C opens the jar (0.500)", "#C C opens the jar (0.250)"]
    assert "\n" not in cues[1][2] and "butter (0.500)" in cues[1][2] and "-->" not in cues[1][2]


def test_lists_of_values_are_read_back(film: VideoSource, tmp_path: Path) -> None:
    found = [moment(film, 4.0, 5.25, ODD), moment(film, 1.0, 2.0004)]
    write_moments([tmp_path / "a.csv", tmp_path / "A.JSON"], found)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["label"], float(row["end"])) for row in rows] == [("film", ODD, 5.25),
                                                                               ("film", "#C C opens the jar", 2.0)]
    assert json.loads((tmp_path / "A.JSON").read_text()) == [one.row() for one in found]
    assert json.loads((tmp_path / "A.JSON").read_text())[0]["file"] == str(tmp_path / "film.mp4")


def test_an_edit_list_counts_frames(film: VideoSource, tmp_path: Path) -> None:
    write_moments([tmp_path / "a.edl"], [moment(film, 62.5, 64.0), moment(film, 1.0, 1.01)])
    lines = (tmp_path / "a.edl").read_text().splitlines()
    assert lines[:2] == ["TITLE: egovlpv2", "FCM: NON-DROP FRAME"]
    assert [line for line in lines if line[:1].isdigit()] == [  # source in and out, record in and out
        "001  AX       V     C        00:01:02:05 00:01:04:00 00:00:00:00 00:00:01:05",
        "002  AX       V     C        00:00:01:00 00:00:01:01 00:00:01:05 00:00:01:06"]
    assert lines.count("* FROM CLIP NAME: film.mp4") == 2


def test_each_video_has_subtitles_of_its_own(film: VideoSource, tmp_path: Path) -> None:
    (other,) = find_videos([write_video(tmp_path / "other.mp4", fps=FPS, pictures=[picture(0)])])
    paths = write_moments([tmp_path / "a.srt"], [moment(film, 0, 1), moment(other, 0, 1), moment(film, 2, 3)])
    assert [path.name for path in paths] == ["a.film.srt", "a.other.srt"]
    assert [path.read_text().count("-->") for path in paths] == [2, 1]


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    targets = [tmp_path / f"a{suffix}" for suffix in (".csv", ".json", ".srt", ".vtt", ".edl")]
    assert write_moments(targets, []) == targets
    assert json.loads(targets[1].read_text()) == [] and targets[0].read_text().startswith("video,file,start")


def test_targets_that_cannot_be_written_are_refused(film: VideoSource, tmp_path: Path) -> None:
    for target, message in ((tmp_path / "a.mov", r"give a folder for clips, or a file named .csv .json .srt .vtt .edl"),
                            (tmp_path, "is the folder of a video"),
                            (tmp_path / "film.mp4" / "a.csv", "can't be made")):
        with pytest.raises(ValueError, match=message):
            check_targets([target], [film])
    for targets, others in ((["a.csv", "./a.csv"], []), (["a.json"], ["a.json"]), (["b.csv"], [None, "x/../b.csv"])):
        with pytest.raises(ValueError, match="--export .*: that file is read, or written to already"):
            check_targets([tmp_path / name for name in targets], [film], [name and tmp_path / name for name in others])
    check_targets([tmp_path / "new" / "clips", tmp_path / "lists" / "a.CSV"], [film])
    assert (tmp_path / "new" / "clips").is_dir() and (tmp_path / "lists").is_dir()


def test_a_video_that_is_gone_does_not_stop_the_other_clips(film: VideoSource, tmp_path: Path) -> None:
    gone = VideoSource("gone", (tmp_path / "gone.mp4",), False)
    (tmp_path / "clips").mkdir()
    with pytest.raises(VideoError, match=r"1 of 3 clips can't be cut: .*gone.mp4 is missing"):
        write_moments([tmp_path / "clips"], [moment(film, 0, 1), moment(gone, 0, 1), moment(film, 2, 3)])
    assert sorted(os.listdir(tmp_path / "clips")) == ["001-film-0.0-1.0.mp4", "003-film-2.0-3.0.mp4"]
