"""The routes of the API."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from serve.serving import IDS, NASTY, QUERY, client_of, opened, write_index
from starlette.testclient import TestClient

from egovlpv2.search.index import Index
from egovlpv2.serve.app import make_app
from egovlpv2.serve.service import Service

A = f"/api/videos/{IDS['a']}"
OLD = f"/api/videos/{IDS['old']}"
PARTS = f"/api/videos/{IDS['parts']}"


def get(client: TestClient, path: str, **given: Any) -> dict[str, Any]:
    answer = client.get(path, params=given or None)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def refused(client: TestClient, path: str, status: int, **given: Any) -> str:
    """The words of an error, which are its whole body."""
    answer = client.get(path, params=given or None)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"] and body["error"]
    return str(body["error"])


def durations(content: bytes) -> tuple[float, str]:
    with av.open(io.BytesIO(content)) as container:
        return float(container.duration or 0) / av.time_base, container.streams.video[0].codec_context.name


def test_a_search_is_that_of_the_index(client: TestClient, service: Service) -> None:
    found = get(client, "/api/search", q=QUERY, top=5)
    expected = Index(service.library.folder, device="cpu").search(QUERY, top=5)
    assert [(row["name"], row["start"], row["end"]) for row in found["results"]] == [
        (moment.video, moment.start, moment.end) for moment in expected]
    np.testing.assert_allclose([row["cosine"] for row in found["results"]], [moment.cosine for moment in expected])
    assert [row["rank"] for row in found["results"]] == [1, 2, 3, 4, 5]
    assert {row["video"] for row in found["results"]} <= {*IDS.values()}
    assert found["query"] == QUERY and found["notices"] == [] and not any(row["problem"] for row in found["results"])


def test_filters(client: TestClient, service: Service) -> None:
    everything = get(client, "/api/search", q=QUERY, top=50)["results"]
    middle = everything[len(everything) // 2]["cosine"]
    assert all(row["cosine"] >= middle for row in get(client, "/api/search", q=QUERY, min_score=middle)["results"])
    some = get(client, "/api/search", q=QUERY, videos=["a", "ol*"])
    assert {row["name"] for row in some["results"]} == {"a", "old"} and some["searched"] == "2 of 4 videos"
    assert {row["name"] for row in get(client, "/api/search", q=QUERY, videos=NASTY)["results"]} == {NASTY}
    others = get(client, "/api/search", q=QUERY, top=50, **{"not": "w5 w6"})["results"]
    expected = Index(service.library.folder, device="cpu").search(QUERY, top=50, without="w5 w6")
    assert [(row["name"], row["start"]) for row in others] == [(one.video, one.start) for one in expected]
    reranked = get(client, "/api/search", q=QUERY, top=4, rerank=3)["results"]
    assert [row["match"] is None for row in reranked] == [False, False, False, True]
    assert get(client, "/api/search", q=QUERY, min_score=1)["results"] == []


def test_more_like_this(client: TestClient) -> None:
    found = get(client, "/api/search", like=f"{IDS['a']}@1.5")["results"]
    assert found == get(client, "/api/search", like="a@1.5")["results"] and found
    assert not any(row["name"] == "a" and row["start"] <= 1.5 <= row["end"] for row in found)
    get(client, "/api/search", like=f"{IDS[NASTY]}@1", q=QUERY)


def test_a_query_that_is_cut_is_told(client: TestClient) -> None:
    (notice,) = get(client, "/api/search", q="w5 " * 30)["notices"]
    assert notice == "the query has 32 tokens, of which the first 12 are searched for"


def test_a_search_of_which_nothing_fits(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    found = get(client, "/api/search", q=QUERY)
    assert found["notices"] == [] and isinstance(found["deviation"], float)
    monkeypatch.setattr("egovlpv2.search.index.LEAST_DEVIATION", found["deviation"] + 0.01)
    (notice,) = get(client, "/api/search", q=QUERY)["notices"]
    assert notice.startswith("nothing fits better than chance would: the best cosine is ")
    by_example = get(client, "/api/search", q=QUERY, like="a@1.5")
    assert by_example["notices"] == [] and by_example["deviation"] is None


@pytest.mark.parametrize("given, status, words", [
    ({}, 422, "give a text"), ({"q": ""}, 422, "q is empty"), ({"q": "  \t"}, 422, "q is empty"),
    ({"q": "w" * 10_000}, 422, "at most 1000 characters"), ({"q": QUERY, "top": 0}, 422, "top '0': give "),
    ({"q": QUERY, "top": "many"}, 422, "top"), ({"q": QUERY, "min_score": "nan"}, 422, "min_score"),
    ({"q": QUERY, "videos": "kitchen*"}, 404, "no video of the index is named 'kitchen\\*'"),
    ({"q": QUERY, "videos": ["a", "zz"]}, 404, "'zz'"), ({"q": QUERY, "videos": "[z-a]"}, 4, "z-a"),
    ({"like": "a"}, 422, "like"), ({"like": "a@99"}, 422, "lasts 6.0 s"), ({"like": "zz@1"}, 404, "no video"),
    ({"like": "/etc/passwd@1"}, 404, "no video"), ({"like": "/etc/passwd"}, 422, "like"),
    ({"like": "a@1", "rerank": 5}, 422, "rerank needs a text"), ({"q": QUERY, "not": " "}, 422, "not is empty"),
])
def test_what_cannot_be_searched_for(client: TestClient, given: dict[str, Any], status: int, words: str) -> None:
    answer = client.get("/api/search", params=given or None)
    assert answer.status_code == status or status == 4 and answer.status_code in (404, 422)
    assert list(answer.json()) == ["error"]
    assert re.search(words, answer.json()["error"]), answer.json()


def test_the_index_and_its_videos(client: TestClient) -> None:
    index = get(client, "/api/index")
    assert index["videos"] == 4 and index["fusion"] and index["locate"] and index["window_seconds"] == 2
    listed = get(client, "/api/videos")
    assert listed["total"] == 4 and {row["name"]: row["id"] for row in listed["videos"]} == IDS
    assert [row["name"] for row in get(client, "/api/videos", limit=2, offset=1)["videos"]] == [
        row["name"] for row in listed["videos"]][1:3]
    assert "/" not in json.dumps([row["name"] for row in listed["videos"]])


def test_a_file_that_browsers_play_is_sent_as_it_is(client: TestClient, service: Service) -> None:
    told = get(client, f"{A}/playback", start=1, end=3)
    assert told == {"url": f"{A}/play?start=1.000&end=3.000", "start": 1.0, "end": 3.0, "type": "video/mp4",
                    "encoded": False}
    answer = client.get(told["url"])
    file = service.library.folder.parent / "videos" / "a.mp4"
    assert answer.content == file.read_bytes() and answer.headers["content-type"] == "video/mp4"


def test_a_chunk_is_sent_with_its_own_times(client: TestClient, service: Service) -> None:
    told = get(client, f"{PARTS}/playback", start=2.25, end=3.5)
    assert not told["encoded"] and (told["start"], told["end"]) == (0.25, 1.5)
    file = service.library.folder.parent / "videos" / "parts" / "1.mp4"
    assert client.get(told["url"]).content == file.read_bytes()
    across = get(client, f"{PARTS}/playback", start=1, end=3)
    assert across["encoded"] and durations(client.get(across["url"]).content) == (2.0, "h264")


def test_what_browsers_do_not_play_is_encoded(client: TestClient) -> None:
    told = get(client, f"{OLD}/playback", start=1, end=2.5)
    assert told["encoded"] and (told["start"], told["end"]) == (0, 1.5)
    answer = client.get(told["url"])
    assert answer.headers["content-type"] == "video/mp4" and durations(answer.content) == (1.5, "h264")
    assert client.get(told["url"]).content == answer.content
    asked = get(client, f"{A}/playback", start=1, end=2, encode=True)
    assert asked["encoded"] and durations(client.get(asked["url"]).content)[0] == 1


@pytest.mark.parametrize("path, given, first, last", [
    (A, "bytes=0-99", 0, 99), (A, "bytes=100-", 100, None), (A, "bytes=-50", -50, None),
    (A, "bytes=5-999999999", 5, None), (OLD, "bytes=10-19", 10, 19)])
def test_parts_of_a_file(client: TestClient, path: str, given: str, first: int, last: int | None) -> None:
    whole = client.get(f"{path}/play?start=0&end=2").content
    answer = client.get(f"{path}/play?start=0&end=2", headers={"Range": given})
    expected = whole[first:None if last is None else last + 1]
    begin = first % len(whole) if first < 0 else first
    assert answer.status_code == 206 and answer.content == expected
    assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}"
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("given", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file(client: TestClient, given: str) -> None:
    size = len(client.get(f"{A}/play?start=0&end=2").content)
    answer = client.get(f"{A}/play?start=0&end=2", headers={"Range": given})
    assert answer.status_code == 416 and answer.headers["content-range"] == f"bytes */{size}"
    assert "outside the file" in answer.json()["error"]


@pytest.mark.parametrize("given", ["bytes=", "bytes=9-5", "lines=1-2", "bytes=0-1,4-5", "bytes=x-y", "nonsense"])
def test_a_range_that_cannot_be_read_is_ignored(client: TestClient, given: str) -> None:
    whole = client.get(f"{A}/play?start=0&end=2")
    answer = client.get(f"{A}/play?start=0&end=2", headers={"Range": given})
    assert answer.status_code == 200 and answer.content == whole.content


def test_pictures(client: TestClient) -> None:
    for path in (A, OLD, PARTS):
        answer = client.get(f"{path}/frame?at=3&height=24")
        picture = Image.open(io.BytesIO(answer.content))
        assert answer.headers["content-type"] == "image/jpeg" and min(picture.size) == 24
    assert client.get(f"{A}/frame?at=6").status_code == 200  # the last picture
    refused(client, f"{A}/frame", 422, at=3, height=4000)


@pytest.mark.parametrize("path, given, words", [
    ("play", {"start": 5, "end": 9}, "lasts 6.0 s"), ("playback", {"start": 3, "end": 2}, "swap its times"),
    ("play", {"start": -1, "end": 2}, "start"), ("play", {"start": "nan", "end": 2}, "start"),
    ("play", {"start": 0}, "end is missing"), ("frame", {"at": 6.5}, "lasts 6.0 s"), ("frame", {"at": "inf"}, "at"),
    ("attention", {"at": 60, "q": "w5"}, "lasts 6.0 s"), ("attention", {"at": 1, "q": ""}, "q is empty"),
    ("locate", {"q": " "}, "q is empty"), ("locate", {}, "q is missing")])
def test_moments_that_are_not_there(client: TestClient, path: str, given: dict[str, Any], words: str) -> None:
    assert words in refused(client, f"{A}/{path}", 422, **given)


@pytest.mark.parametrize("path", ["play", "playback", "frame", "attention", "locate"])
def test_only_videos_of_the_index_are_served(client: TestClient, path: str) -> None:
    given = {"start": 0, "end": 1, "at": 0, "q": "w5"}
    assert "no video with the id" in refused(client, f"/api/videos/{'0' * 16}/{path}", 404, **given)
    refused(client, f"/api/videos/a/{path}", 422, **given)
    for traversal in ("..%2F..%2Fetc%2Fpasswd", "%2e%2e"):
        assert client.get(f"/api/videos/{traversal}/{path}", params=given).status_code in (404, 422)


def test_locate(client: TestClient) -> None:
    found = get(client, f"{A}/locate", q="W17 w203", top=3)
    assert found["query"] == "W17 w203" and found["duration"] == 6
    assert 1 <= len(found["windows"]) <= 3
    assert all(0 <= one["start"] < one["end"] <= 6.01 and 0 <= one["score"] <= 1 for one in found["windows"])
    lengths = {len(values) for values in found["curves"].values()}
    assert len(lengths) == 1 and lengths.pop() > 5


def test_attention(client: TestClient) -> None:
    for path in (A, PARTS):
        answer = client.get(f"{path}/attention", params={"at": 2, "q": "w17 w203"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).width > 300


def test_what_the_server_was_started_without(tmp_path: Path) -> None:
    made = write_index(tmp_path, fusion="none", num_fused_layers=0)
    with opened(made) as service:
        bare = client_of(make_app(service, {"127.0.0.1"}))
        assert not get(bare, "/api/index")["locate"] and not get(bare, "/api/index")["fusion"]
        assert "--head" in refused(bare, f"{A}/locate", 409, q="w5")
        assert "no fused layer" in refused(bare, f"{A}/attention", 409, q="w5", at=1)
        assert "fus" in refused(bare, "/api/search", 422, q="w5", rerank=5)


@pytest.mark.parametrize("format", ["csv", "json"])
def test_exports_are_the_results(client: TestClient, format: str) -> None:
    found = get(client, "/api/search", q=QUERY, top=4)["results"]
    answer = client.get("/api/export", params={"q": QUERY, "top": 4, "format": format})
    assert answer.headers["content-disposition"] == f'attachment; filename="moments.{format}"'
    rows = list(csv.DictReader(io.StringIO(answer.text))) if format == "csv" else answer.json()
    assert [(row["video"], float(row["start"])) for row in rows] == [(one["name"], one["start"]) for one in found]
    assert {row["file"] for row in rows} <= {"a.mp4", "old.avi", "parts", f"{NASTY}.mp4"}  # no folders of the server


def test_exports_for_players_and_editors(client: TestClient) -> None:
    one = client.get("/api/export", params={"q": QUERY, "videos": "a", "format": "srt"})
    assert " --> " in one.text and "moments.srt" in one.headers["content-disposition"]
    several = client.get("/api/export", params={"q": QUERY, "top": 50, "format": "vtt"})
    with zipfile.ZipFile(io.BytesIO(several.content)) as archive:
        assert {"a.vtt", "old.vtt", "parts.vtt"} < {*archive.namelist()} and len(archive.namelist()) == 4
        assert archive.read("a.vtt").startswith(b"WEBVTT")
    edits = client.get("/api/export", params={"q": QUERY, "format": "edl"}).text
    assert "FROM CLIP NAME: a.mp4" in edits
    refused(client, "/api/export", 422, q=QUERY, format="exe")
    refused(client, "/api/export", 422, q=QUERY)
    assert client.get("/api/export", params={"q": QUERY, "min_score": 1, "format": "edl"}).status_code == 200


def test_an_archive_of_clips(client: TestClient) -> None:
    answer = client.get("/api/export", params={"q": QUERY, "top": 3, "format": "zip"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 3
        assert all(name.startswith(f"{i:03}-") and "<" not in name for i, name in enumerate(archive.namelist(), 1))
        assert durations(archive.read(archive.namelist()[0])) == (2.0, "h264")


def test_a_video_that_is_gone_or_has_changed(own: tuple[Path, Service, TestClient]) -> None:
    made, _, client = own
    videos = made.parent / "videos"
    assert client.get(f"{A}/play?start=0&end=2", headers={"Range": "bytes=0-9"}).status_code == 206
    assert client.get(f"{A}/frame?at=1").status_code == 200  # it is kept
    (videos / "a.mp4").unlink()
    (videos / "old.avi").write_bytes(b"another")
    for path in ("play?start=0&end=2", "play?start=0&end=2&encode=true", "playback?start=0&end=2", "frame?at=1",
                 "attention?at=1&q=w5"):
        for id, name, reason in ((A, "a.mp4", "not there any more"), (OLD, "old.avi", "has changed")):
            words = refused(client, f"{id}/{path}", 410)
            assert reason in words and name in words and str(made.parent) not in words
    rows = get(client, "/api/search", q=QUERY, top=50)["results"]
    assert {row["name"]: bool(row["problem"]) for row in rows} == {"a": True, "old": True, "parts": False, NASTY: False}
    assert str(made.parent) not in json.dumps(rows)
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/export?q={QUERY}&top=50&format=zip").content)) as archive:
        assert b"a.mp4 is not there any more" in archive.read("problems.txt") and len(archive.namelist()) > 2
    assert "has changed" in {row["name"]: row["problem"] for row in get(client, "/api/videos")["videos"]}["old"]


def test_the_pages_and_the_document_of_the_api(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    for name in ("app.js", "style.css", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) == 9 and all({"400", "401", "403", "422", "503"} <= {*one["get"]["responses"]}
                                   for one in paths.values())
    assert client.get("/redoc").status_code == 404


def test_addresses_and_methods_that_are_not_there(client: TestClient) -> None:
    assert "/docs" in refused(client, "/api/nothing", 404)
    refused(client, "/page/..%2Fapp.py", 404)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/api/search", content=b"x" * 1000)
        assert answer.status_code == 405 and list(answer.json()) == ["error"] and answer.headers["allow"] == "GET"
