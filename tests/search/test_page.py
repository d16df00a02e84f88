"""The page shows its moments in a browser without a request to anywhere."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from egovlpv2.search.moments import Moment
from egovlpv2.search.page import Card, jpegs, page, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    sync_playwright = None
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or sync_playwright is None,
    reason="needs Debian's chromium (apt-get install chromium) and playwright (pip install playwright)")
NASTY = '</script><img src="https://example.org/x.png">'


def cards() -> list[Card]:
    """Five moments of three videos; one has no pictures, and one video a nasty name."""
    torch.manual_seed(0)
    made = []
    for i, (video, start) in enumerate((("kitchen", 70.0), (NASTY, 4.5), ("kitchen", 3700.0), ("shed", 8.0),
                                        ("kitchen", 12.0))):
        pictures = jpegs(torch.randint(0, 256, (4, 3, 36, 64), dtype=torch.uint8)) if video != "shed" else []
        made.append(Card(Moment(video, start, start + 2, 0.9 - i / 10, 0.5 if i < 2 else None), pictures,
                         "" if pictures else "shed.mp4 is not there any more"))
    return made


def test_nothing_in_the_page_points_outside() -> None:
    text = page("#C C opens <b>the jar</b>", cards(), "five moments")
    without_pictures = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert re.findall(r"(?:https?:)?//[\w.]+", without_pictures) == ["https://example.org"]  # in a video's name
    assert text.count("</script>") == 2 and "<b>" not in text and "@import" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: "Browser", tmp_path: Path) -> Iterator[tuple["Page", list[str], list[str]]]:
    """The page in a browser, the requests it has made, and what its console has said."""
    write_page(tmp_path / "page.html", "#C C opens the jar", cards(), "5 moments")
    with browser.new_context(offline=True) as context:
        view = context.new_page()
        view.set_default_timeout(10_000)
        requests: list[str] = []
        said: list[str] = []
        view.on("request", lambda request: requests.append(request.url))
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto((tmp_path / "page.html").as_uri())
        yield view, requests, said


def names(view: "Page") -> list[str]:
    return view.locator(".card .name").all_inner_texts()


@needs_browser
def test_a_user_clicks_through(opened: tuple["Page", list[str], list[str]]) -> None:
    view, requests, said = opened
    expect(view.get_by_role("heading")).to_have_text("#C C opens the jar")
    assert names(view) == ["kitchen", NASTY, "kitchen", "shed", "kitchen"]
    assert view.locator(".card img").count() == 12
    assert view.locator(".card img").first.evaluate("image => image.naturalWidth") == 64
    expect(view.locator(".card").nth(3)).to_contain_text("shed.mp4 is not there any more")

    dialog = view.locator("dialog")
    expect(dialog).to_be_hidden()
    view.locator(".card").first.click()
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("0:01:10 – 0:01:12")
    expect(dialog).to_contain_text("score 1.400 = cosine 0.900 + match 0.500")
    before = view.locator("#large").get_attribute("src")
    expect(view.locator("#large")).not_to_have_attribute("src", before)  # its pictures follow one another
    view.get_by_role("button", name="Next").click()
    expect(dialog).to_contain_text(NASTY)
    view.get_by_role("button", name="Previous").click()
    expect(dialog).to_contain_text("kitchen")
    view.keyboard.press("ArrowLeft")  # from the first to the last
    expect(dialog).to_contain_text("0:00:12 – 0:00:14")
    view.keyboard.press("ArrowLeft")
    expect(dialog).to_contain_text("shed.mp4 is not there any more")
    expect(view.locator("#large")).to_be_hidden()
    view.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    view.locator(".card").nth(2).click()
    view.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    assert [url for url in requests if not url.startswith(("data:", "file:"))] == [] and said == []
    assert len([url for url in requests if url.startswith("file:")]) == 1


@needs_browser
def test_a_user_stops_the_pictures(opened: tuple["Page", list[str], list[str]]) -> None:
    view, *_ = opened
    view.locator(".card").first.click()
    view.locator("#steps img").nth(2).click()
    expect(view.locator("#play")).to_have_text("Play")
    still = view.locator("#large").get_attribute("src")
    view.wait_for_timeout(700)
    assert view.locator("#large").get_attribute("src") == still
    view.get_by_role("button", name="Close").click()


@needs_browser
def test_a_user_filters_and_sorts(opened: tuple["Page", list[str], list[str]]) -> None:
    view, *_ = opened
    view.get_by_label("Video").select_option("kitchen")
    times = view.locator(".card .time")
    expect(times).to_have_text(["0:01:10 – 0:01:12", "1:01:40 – 1:01:42", "0:00:12 – 0:00:14"])
    view.get_by_label("Order").select_option("time")
    expect(times).to_have_text(["0:00:12 – 0:00:14", "0:01:10 – 0:01:12", "1:01:40 – 1:01:42"])
    view.locator(".card").first.click()
    view.keyboard.press("ArrowRight")  # among those that are shown
    expect(view.locator("dialog")).to_contain_text("0:01:10")
    view.keyboard.press("Escape")
    view.get_by_label("Video").select_option("")
    assert len(names(view)) == 5
