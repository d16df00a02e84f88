"""Who may ask, where the server listens, and what it keeps."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from features.test_extract import write
from search.searching import index
from serve.serving import IDS, QUERY, client_of, write_index
from starlette.testclient import TestClient

from egovlpv2.cli import main as cli
from egovlpv2.serve.app import make_app
from egovlpv2.serve.caches import ByteCache, FileCache
from egovlpv2.serve.command import listen, names_of, url_of
from egovlpv2.serve.guard import require_token
from egovlpv2.serve.service import Service

TOKEN = "correct-horse-battery"
A = f"/api/videos/{IDS['a']}"


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1", 200), ("127.0.0.1:8000", 200), ("LOCALHOST:9", 200), ("localhost.", 200), ("example.org", 400),
    ("127.0.0.1.example.org", 400), ("", 400), ("127.0.0.1@example.org", 400), ("10.0.0.1", 400)])
def test_only_own_names_are_answered(client: TestClient, host: str, status: int) -> None:
    for path in ("/", "/api/index", "/openapi.json", "/nothing"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == (404 if status == 200 and path == "/nothing" else status)
        assert status == 200 or "--hosts" in answer.json()["error"]


def test_a_server_of_all_addresses_is_asked_by_address_or_by_name(service: Service) -> None:
    client = client_of(make_app(service, {"box"}, any_address=True, token=TOKEN))
    for host, status in (("10.0.0.1:8000", 200), ("[fe80::1]:8000", 200), ("box", 200), ("example.org", 400)):
        answer = client.get("/api/index", headers={"Host": host, "Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == status


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for path in ("/", "/api/index", "/api/nothing", "/api/search", f"{A}/frame?at=1", f"{A}/play?start=0&end=1"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.get("/api/index", headers={"Sec-Fetch-Site": site}).status_code == status
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_token_is_asked_for(service: Service) -> None:
    app = make_app(service, {"127.0.0.1"}, token=TOKEN)
    for path in ("/", "/docs", "/page/app.js", "/openapi.json", "/api/index", f"{A}/play?start=0&end=1"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                        {"Cookie": "egovlpv2=1"}, {"Cookie": "\xff=\xfe;;="}, {"Authorization": "Bearer \xff"}):
            answer = client_of(app).get(path, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert answer.status_code == 401 and list(answer.json()) == ["error"]
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client_of(app).get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    client = client_of(app)
    assert client.get("/?token=wrong").status_code == 401
    opened = client.get(f"/?token={TOKEN}")
    assert opened.status_code == 200 and re.fullmatch(
        rf"egovlpv2-\w{{8}}={TOKEN}; HttpOnly; SameSite=Strict; Path=/", opened.headers["set-cookie"])
    assert client.get("/api/index").status_code == 200  # by the cookie
    cookie = opened.headers["set-cookie"].partition(";")[0]
    for before in ('foo={"a": "b"}; ', "x=a b; ", "my@c=1; ", "lone; ", "=; "):  # other programs' of the same host
        answer = client_of(app).get("/api/index", headers={"Cookie": before + cookie})
        assert answer.status_code == 200, before
    assert "set-cookie" not in client.get("/api/index").headers


def test_a_token_of_a_user_is_checked() -> None:
    assert require_token(TOKEN) == TOKEN
    for token in ("short", "with space in it", "semi;colon;semi", "x" * 300, "naïve-token"):
        with pytest.raises(ValueError, match="^--token: give 8 to 200"):
            require_token(token)


def test_an_index_that_grows_is_opened_anew(own: tuple[Path, Service, TestClient]) -> None:
    made, service, client = own
    assert client.get("/api/index").json()["videos"] == 4
    service.library._not_before = 0.0
    write(made.parent / "videos" / "new.mp4", 400, 30)
    index(made.parent / "videos", made.parent / "weights.safetensors", made, "--chunk-seconds", 2)
    found = client.get("/api/search", params={"q": QUERY, "top": 50}).json()
    assert "5 videos" in found["searched"] and "new" in {row["name"] for row in found["results"]}
    assert client.get("/api/index").json()["videos"] == 5
    before = service.library.index
    service.library._not_before = 0.0
    os.utime(made / "index.json")  # written anew without a change
    assert client.get("/api/index").status_code == 200 and service.library.index is not before
    (made / "index.json").write_text("{")
    service.library._not_before = 0.0
    assert client.get("/api/index").json()["videos"] == 5  # as it was


def test_pictures_and_clips_are_kept_within_bounds(tmp_path: Path) -> None:
    pictures = ByteCache(100)
    for i in range(20):
        pictures.put(i, bytes(10 + i))
    assert pictures.num_bytes <= 100 and pictures.get(19) == bytes(29) and pictures.get(0) is None
    pictures.put("large", bytes(101))
    assert pictures.get("large") is None
    clips = FileCache(100)
    for i in range(5):
        path = clips.new(".mp4")
        path.write_bytes(bytes(40))
        clips.put(i, path)
    assert clips.num_bytes <= 100 and clips.get(0) is None
    kept = clips.get(4)
    assert kept is not None and len(list(kept.parent.iterdir())) == 2
    kept.unlink()
    assert clips.get(4) is None
    clips.close()
    assert not kept.parent.exists()


def test_where_it_listens() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} of 127.0.0.1 .*another program uses it: give another"):
            listen("127.0.0.1", port)
        assert url_of("127.0.0.1", first, "") == f"http://127.0.0.1:{port}/"
        assert url_of("::1", first, TOKEN) == f"http://[::1]:{port}/?token={TOKEN}"
    with pytest.raises(ValueError, match="--host 203.0.113.7|this machine has no such address"):
        listen("203.0.113.7", 0)
    with pytest.raises(ValueError, match="there is no such address"):
        listen("no.such.host.invalid", 0)
    assert {"localhost", "127.0.0.1", "::1", "box.example"} <= names_of("127.0.0.1", ["Box.Example."])


def test_what_is_wrong_with_a_command_is_one_line(tmp_path: Path) -> None:
    for options, words in (([str(tmp_path)], "is not an index"), ([str(tmp_path), "--port", "70000"], "--port"),
                           ([str(tmp_path), "--token", "x"], "--token: give 8"), ([], "index")):
        with pytest.raises(SystemExit, match=words):
            cli(["serve", *options])


@pytest.mark.parametrize("more", [(), ("--token", "auto"), ("--host", "0.0.0.0"), ("--hosts", "videos.example")])
def test_the_command_serves_until_ctrl_c(more: tuple[str, ...], tmp_path: Path) -> None:
    made = write_index(tmp_path)
    command = [sys.executable, "-m", "egovlpv2.cli", "serve", str(made), "--port", "0", "--device", "cpu", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)/(?:\?token=(\S+))? ", line)
        assert found, line
        assert (found[2] is not None) == bool(more)
        address = f"http://127.0.0.1:{found[1]}/api/search?q=w5"
        given = {"Authorization": f"Bearer {found[2]}"} if found[2] else {}
        assert json.loads(httpx.get(address, headers=given).text)["results"]
        assert httpx.get(address).status_code == (401 if found[2] else 200)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().strip() == "egovlpv2 serve: stopped by Ctrl-C; what is finished stays"


def test_without_the_extra_a_line_says_how_to_install_it(tmp_path: Path) -> None:
    code = ("import importlib.util as u, sys; real = u.find_spec\n"
            "u.find_spec = lambda name, *more: None if name in ('fastapi', 'uvicorn') else real(name, *more)\n"
            f"from egovlpv2.cli import main; main(['serve', {str(tmp_path)!r}])")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "needs fastapi and uvicorn: `pip install 'egovlpv2[serve]'`" in ended.stderr
    assert "Traceback" not in ended.stderr
