"""The contact sheet: a picture of the verbs and nouns of the toy world."""

from PIL import Image, ImageDraw, ImageFont

from egovlpv2.data_modules.toy_world.render import SIZE, Stage, draw_object
from egovlpv2.data_modules.toy_world.script import Event, Video
from egovlpv2.data_modules.toy_world.vocabulary import NOUN_COLOURS, NOUNS, VERBS

_FRAMES, _GAP, _TEXT = 5, 6, 22
_CELL = SIZE + _GAP
_PAPER, _INK = (250, 249, 245), (40, 40, 44)


def _examples(videos: list[Video]) -> dict[str, tuple[Video, Event]]:
    """An event for each verb, from different videos if there are enough."""
    chosen: dict[str, tuple[Video, Event]] = {}
    used: set[str] = set()
    for verb in VERBS:
        able = [(video, event) for video in videos for event in video.events if event.verb == verb]
        able.sort(key=lambda pair: (pair[0].uid in used, pair[1].wearer == "O"))
        if able:
            chosen[verb] = able[0]
            used.add(able[0][0].uid)
    return chosen


def _draw_row(sheet: Image.Image, corner: tuple[int, int], video: Video, event: Event) -> None:
    """Draw the frames of an event with its narration above them."""
    draw, stage = ImageDraw.Draw(sheet), Stage(video)
    caption = f"{event.verb}:  {event.text}"
    draw.text((corner[0], corner[1] + 4), caption, fill=_INK, font=ImageFont.load_default(14))
    for i in range(_FRAMES):
        time = event.start + (i + 0.5) / _FRAMES * (event.end - event.start)
        sheet.paste(stage.frame(time), (corner[0] + i * _CELL, corner[1] + _TEXT))


def _draw_nouns(sheet: Image.Image, top: int) -> None:
    """Draw all objects with their names, twelve in a row."""
    draw, step = ImageDraw.Draw(sheet), (sheet.width - 2 * _GAP) // 12
    for i, noun in enumerate(NOUNS):
        x, y = _GAP + i % 12 * step, top + i // 12 * (step + _TEXT)
        picture = draw_object(noun, NOUN_COLOURS[noun]).resize((step, step), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x, y), picture)
        draw.text((x + step / 2, y + step + 8), noun, fill=_INK, anchor="mm", font=ImageFont.load_default(14))


def contact_sheet(videos: list[Video]) -> Image.Image:
    """Frames of an event for each verb, with its narration, and all nouns below."""
    examples = list(_examples(videos).values())
    rows, column = (len(examples) + 1) // 2, _FRAMES * _CELL + 2 * _GAP
    width, height = 2 * column + _GAP, rows * (_CELL + _TEXT) + 2 * _GAP
    sheet = Image.new("RGB", (width, height + 2 * (width // 12 + _TEXT) + _GAP), _PAPER)
    for i, (video, event) in enumerate(examples):
        _draw_row(sheet, (_GAP + i % 2 * column, _GAP + i // 2 * (_CELL + _TEXT)), video, event)
    _draw_nouns(sheet, height)
    return sheet
