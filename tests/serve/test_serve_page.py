"""A user searches and plays in a browser; no request leaves the server."""

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve.serving import NASTY, QUERY, running, until
from starlette.testclient import TestClient

from egovlpv2.serve.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    sync_playwright = None
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or sync_playwright is None,
    reason="needs Debian's chromium (apt-get install chromium) and playwright (pip install playwright)")


class Visit:
    """A page in a browser, the requests it has made, and what its console has said."""

    def __init__(self, view: "Page", address: str) -> None:
        self.view, self.address = view, address
        self.requests: list[str] = []
        self.said: list[str] = []
        view.set_default_timeout(15_000)
        view.on("request", lambda request: self.requests.append(request.url))
        view.on("console", lambda message: self.said.append(message.text))
        view.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, path: str = "/") -> "Page":
        self.view.goto(self.address + path)
        return self.view

    def search(self, text: str = QUERY) -> "Page":
        view = self.open()
        expect(view.locator("#q")).to_be_focused()
        view.keyboard.type(text)
        expect(view.locator(".card").first).to_be_visible()
        return view

    def searches(self) -> list[str]:
        return [url for url in self.requests if "/api/search" in url]


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["wide", "phone"])
def visit(request: pytest.FixtureRequest, browser: "Browser", address: str) -> Iterator[Visit]:
    """On a wide and light screen, and on a phone's dark one; what every test has to leave behind is checked."""
    scheme, width = request.param
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        visit = Visit(context.new_page(), address)
        yield visit
        assert visit.said == []
        assert [url for url in visit.requests if not url.startswith((address, "blob:"))] == []
        assert visit.view.evaluate("document.documentElement.scrollWidth") == width  # nothing to scroll to the side
        dark = visit.view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 27)"
        assert dark == (scheme == "dark")


def test_results_appear_as_one_types(visit: Visit) -> None:
    view = visit.open()
    expect(view.locator("#index-size")).to_have_text(re.compile("4 videos"))
    expect(view.locator("#q")).to_be_focused()
    view.keyboard.type(QUERY, delay=5)
    cards = view.locator(".card")
    expect(cards).to_have_count(6)
    assert len(visit.searches()) <= 2  # not one for each letter
    expect(view.locator("#status")).to_contain_text("6 moments among 13 windows of 4 videos")
    expect(view.locator(".card img").first).to_have_js_property("naturalWidth", 64)
    assert NASTY in view.locator(".name").all_inner_texts()  # as text
    assert view.evaluate("document.images.length") == 18 + 1  # and the icon
    view.locator("#q").fill("")
    expect(cards).to_have_count(0)
    expect(view.locator("#export")).to_be_hidden()


def test_a_moment_is_played_in_its_video(visit: Visit) -> None:
    view = visit.search()
    dialog, player = view.locator("#dialog"), view.locator("#player")
    view.locator(".card", has=view.get_by_text("a", exact=True)).first.locator(".open").click()
    expect(dialog).to_be_visible()
    expect(player).to_have_js_property("videoWidth", 64)
    until(lambda: view.evaluate("player.currentTime > 0 && !player.error"))
    assert "/play?start=" in str(player.evaluate("player => player.currentSrc"))
    view.get_by_role("button", name="Play again").click()
    view.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert player.evaluate("player => player.currentSrc === '' || player.networkState !== 2")


def test_what_the_browser_cannot_play_is_encoded(visit: Visit) -> None:
    view = visit.search()
    view.locator(".card", has=view.get_by_text("old", exact=True)).first.locator(".open").click()
    expect(view.locator("#player")).to_have_js_property("videoWidth", 128)
    until(lambda: view.evaluate("player.currentTime > 0.2 && !player.error"))
    expect(view.locator("#player-state")).to_have_text("Encoded for the browser")
    view.get_by_role("button", name="Close").click()


def test_more_like_this(visit: Visit) -> None:
    view = visit.search()
    name = view.locator(".name").first.inner_text()
    view.locator(".card .like").first.click()
    expect(view.locator("#like-text")).to_contain_text(f"Like {name} at 0:00:0")
    expect(view.locator("#q")).to_have_value("")
    assert "like=" in view.url
    view.reload()  # the address keeps the search
    expect(view.locator("#like-text")).to_contain_text(f"Like {name} at 0:00:0")
    expect(view.locator(".card").first).to_be_visible()
    view.get_by_role("button", name="Remove the example").click()
    expect(view.locator(".card")).to_have_count(0)
    view = visit.search()
    view.locator(".card .open").first.click()
    view.keyboard.press("m")
    expect(view.locator("#dialog")).to_be_hidden()
    expect(view.locator("#like")).to_be_visible()
    expect(view.locator(".card").first).to_be_visible()


def test_the_keyboard(visit: Visit) -> None:
    view = visit.search()
    box, opens = view.locator("#q"), view.locator(".card .open")
    view.keyboard.press("ArrowDown")
    expect(opens.first).to_be_focused()
    assert opens.first.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    view.keyboard.press("ArrowRight")
    expect(opens.nth(1)).to_be_focused()
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("Enter")
    expect(view.locator("#dialog")).to_be_visible()
    view.keyboard.press("Escape")
    expect(view.locator("#dialog")).to_be_hidden()
    expect(opens.first).to_be_focused()
    view.keyboard.press("ArrowUp")
    expect(box).to_be_focused()
    view.keyboard.press("Escape")
    expect(box).not_to_be_focused()
    view.keyboard.press("/")
    expect(box).to_be_focused()
    expect(box).to_have_value(QUERY)
    view.keyboard.type("w5")  # the text was selected
    expect(box).to_have_value("w5")


def test_filters_and_errors(visit: Visit) -> None:
    view = visit.search()
    view.locator("summary").click()
    view.get_by_label("Videos").fill("a, ol*")
    expect(view.locator("#status")).to_contain_text("2 of 4 videos")
    expect(view.locator("#filters-set")).to_have_text("(1)")
    assert {*view.locator(".name").all_inner_texts()} == {"a", "old"}
    view.get_by_label("Lowest cosine").fill("1")
    expect(view.locator("#status")).to_contain_text("Nothing was found")
    view.get_by_label("Lowest cosine").fill("")
    view.get_by_label("Rerank the best").fill("2")
    expect(view.locator(".score").first).to_contain_text("+ match")
    assert not visit.said
    view.get_by_label("Videos").fill("<b>none")
    expect(view.locator("#error")).to_contain_text("no video of the index is named '<b>none'")
    expect(view.locator(".card")).to_have_count(0)
    visit.said.clear()  # the browser notes the status 404
    view.get_by_label("Videos").fill("")
    expect(view.locator("#error")).to_be_hidden()
    expect(view.locator(".card").first).to_be_visible()


def test_locate_and_attention(visit: Visit) -> None:
    view = visit.search()
    view.locator(".card", has=view.get_by_text("a", exact=True)).first.locator(".open").click()
    view.get_by_role("button", name="Locate in this video").click()
    view.keyboard.type("w17 w203")
    view.keyboard.press("Enter")
    expect(view.locator("#found svg .curve")).to_have_count(3)
    expect(view.locator("#found li").first).to_contain_text("1. 0:00:0")
    view.locator("#found li button").first.click()
    until(lambda: view.evaluate("player.currentTime > 0"))
    view.get_by_role("button", name="Attention of the words").click()
    until(lambda: view.evaluate("document.querySelector('#picture img').naturalWidth > 300"))
    expect(view.locator("#picture img")).to_have_attribute("alt", re.compile(QUERY))


def test_exports(visit: Visit, tmp_path: Path) -> None:
    view = visit.search()
    for format, name in (("csv", "moments.csv"), ("zip", "moments.zip")):
        with view.expect_download() as download:
            view.get_by_label("Export the moments as").select_option(format)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    assert len((tmp_path / "moments.csv").read_text().splitlines()) == 7
    assert len(zipfile.ZipFile(tmp_path / "moments.zip").namelist()) == 6


def test_the_page_of_the_api(visit: Visit) -> None:
    view = visit.open("/docs")
    expect(view.locator("article h2")).to_have_count(9)
    expect(view.locator("article").first).to_contain_text("GET /api/search")


def test_a_token_leaves_the_address(browser: "Browser", service: Service) -> None:
    with running(service, token="correct-horse-battery") as address, browser.new_context() as context:
        visit = Visit(context.new_page(), address)
        view = visit.open("/?token=correct-horse-battery")
        expect(view.locator("#index-size")).to_have_text(re.compile("4 videos"))
        expect(view).to_have_url(f"{address}/")
        assert not visit.said
        view.keyboard.type(QUERY)
        expect(view.locator(".card img").first).to_have_js_property("naturalWidth", 64)
        assert not [url for url in visit.requests[1:] if "token" in url]


def test_the_page_names_no_other_host(client: TestClient) -> None:
    for path in ("/", "/docs", *(f"/page/{name}.js" for name in ("app", "api", "cards", "curves", "player", "docs"))):
        text = client.get(path).text
        assert not re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", text.replace("http://www.w3.org/2000/svg", ""))
        assert "innerHTML" not in text and "style=" not in text and " on" + "click=" not in text
