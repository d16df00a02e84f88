"""The rooms of the toy world: a table before a wall, in some light."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from egovlpv2.data_modules.toy_world.canvas import Colour, shade

WIDTH, HEIGHT = 520, 156
"""Size of the whole picture that the camera pans over, in pixels."""
TABLE_TOP = 46
"""Border between the wall and the table, in pixels."""
_FINE = 2  # supersampling factor, for smooth edges


@dataclass(frozen=True)
class Scene:
    """The look of a room.

    Args:
        table: Colour of the table.
        top: Its pattern.
        wall: Colour of the wall.
        paper: Its pattern.
        decor: Decoration of the wall.
        light: Brightness of red, green and blue.
    """

    table: Colour
    top: str
    wall: Colour
    paper: str
    decor: str
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


SCENES: tuple[Scene, ...] = (
    Scene((186, 140, 92), "planks", (226, 220, 204), "plain", "window"),
    Scene((206, 206, 204), "speckles", (150, 190, 200), "tiles", "shelf"),
    Scene((120, 84, 60), "planks", (196, 110, 86), "bricks", "poster", (1.04, 0.98, 0.9)),
    Scene((226, 216, 190), "plain", (178, 200, 160), "stripes", "plant"),
    Scene((104, 122, 140), "speckles", (236, 232, 226), "tiles", "lamp", (0.94, 0.98, 1.04)),
    Scene((222, 190, 190), "checks", (240, 226, 190), "plain", "shelf"),
    Scene((160, 176, 150), "checks", (120, 132, 150), "stripes", "window"),
    Scene((84, 88, 92), "plain", (204, 196, 220), "plain", "poster"),
    Scene((212, 170, 112), "planks", (140, 170, 150), "bricks", "lamp", (1.02, 1.0, 0.94)),
    Scene((170, 196, 214), "plain", (232, 206, 180), "tiles", "plant", (0.92, 0.92, 0.96)),
    Scene((150, 110, 84), "checks", (170, 206, 196), "plain", "lamp"),
    Scene((196, 200, 178), "planks", (214, 160, 130), "stripes", "shelf", (0.95, 0.98, 1.02)),
    Scene((132, 148, 128), "planks", (238, 214, 216), "tiles", "poster"),
    Scene((214, 198, 168), "speckles", (116, 150, 184), "bricks", "window", (1.03, 1.0, 0.95)),
    Scene((142, 122, 150), "plain", (222, 228, 206), "plain", "shelf"),
)


def _plain(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    """Draw no pattern."""


def _lines(gap: int, factor: float, upright: bool) -> Callable[..., None]:
    def pattern(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
        """Lines at equal distances."""
        width, ink = WIDTH * _FINE, shade(colour, factor)
        for at in range(0 if upright else box[0], width if upright else box[1], gap):
            draw.line((at, box[0], at, box[1]) if upright else (0, at, width, at), fill=ink, width=3)

    return pattern


def _planks(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    for y in range(box[0], box[1], 44):
        draw.rectangle((0, y, WIDTH * _FINE, y + 42), fill=shade(colour, dice.uniform(0.94, 1.05)))
        for _ in range(10):
            x, dy = dice.randrange(WIDTH * _FINE), dice.randrange(6, 40)
            draw.line((x, y + dy, x + dice.randrange(20, 90), y + dy), fill=shade(colour, 0.88), width=2)


def _speckles(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    for _ in range(1400):
        x, y = dice.randrange(WIDTH * _FINE), dice.randrange(*box)
        draw.ellipse((x, y, x + 3, y + 3), fill=shade(colour, dice.choice((0.85, 0.93, 1.06))))


def _checks(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    for x in range(0, WIDTH * _FINE, 48):
        for y in range(box[0], box[1], 48):
            draw.rectangle((x, y, x + 24, y + 24), fill=shade(colour, 0.92))
            draw.rectangle((x + 24, y + 24, x + 48, y + 48), fill=shade(colour, 0.92))


def _tiles(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    _lines(30, 0.86, True)(draw, box, colour, dice)
    _lines(30, 0.86, False)(draw, box, colour, dice)


def _bricks(draw: ImageDraw.ImageDraw, box: tuple[int, int], colour: Colour, dice: random.Random) -> None:
    for row, y in enumerate(range(box[0], box[1], 18)):
        for x in range(-40 + 20 * (row % 2), WIDTH * _FINE, 40):
            draw.rectangle((x, y, x + 37, y + 15), fill=shade(colour, dice.uniform(0.85, 1.0)))


_PATTERNS: dict[str, Callable[..., None]] = {
    "plain": _plain, "planks": _planks, "speckles": _speckles, "checks": _checks, "tiles": _tiles,
    "bricks": _bricks, "stripes": _lines(36, 0.86, True),
}


def _decorate(draw: ImageDraw.ImageDraw, decor: str, x: int) -> None:
    """Draw a decoration of the wall at `x`."""
    if decor == "window":
        draw.rectangle((x - 60, -4, x + 60, 66), fill=(188, 222, 246), outline=(250, 250, 250), width=7)
        draw.line((x, 0, x, 66), fill=(250, 250, 250), width=5)
    elif decor == "poster":
        draw.rectangle((x - 36, 4, x + 36, 70), fill=(244, 238, 220), outline=(70, 60, 60), width=3)
        draw.polygon(((x - 28, 64), (x - 4, 24), (x + 28, 64)), fill=(96, 140, 120))
    elif decor == "shelf":
        draw.rectangle((x - 90, 58, x + 90, 68), fill=(140, 104, 72))
        for i in range(9):
            colour = ((150, 90, 90), (90, 110, 150), (120, 140, 100))[i % 3]
            draw.rectangle((x - 80 + 17 * i, 20 + 7 * (i % 2), x - 67 + 17 * i, 58), fill=colour)
    elif decor == "plant":
        draw.rectangle((x - 18, 56, x + 18, 90), fill=(176, 104, 76))
        for dx in (-34, -18, 0, 18, 34):
            draw.line((x, 58, x + dx, 8 + abs(dx) // 2), fill=(84, 130, 80), width=9)
    else:
        draw.line((x, 0, x, 26), fill=(60, 60, 64), width=4)
        draw.pieslice((x - 40, 10, x + 40, 90), 180, 360, fill=(238, 206, 130))


def _repaint(colour: Colour, dice: random.Random) -> Colour:
    """The colour half way to grey, so that the things stand out, and slightly different in each video."""
    grey, tone = sum(colour) // 3, dice.uniform(0.85, 1.08)
    red, green, blue = (min(255, int(tone * (value + grey) / 2 + dice.uniform(-14, 14))) for value in colour)
    return red, green, blue


def draw_scene(number: int, dice: random.Random) -> Image.Image:
    """The background picture.

    Args:
        number: Index of `SCENES`.
        dice: Draws the differences between videos of the same room.
    """
    scene, edge = SCENES[number], TABLE_TOP * _FINE
    wall, table = (_repaint(scene_colour, dice) for scene_colour in (scene.wall, scene.table))
    image = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), wall)
    draw = ImageDraw.Draw(image)
    _PATTERNS[scene.paper](draw, (0, edge), wall, dice)
    for middle in (190, 520, 850):
        _decorate(draw, scene.decor, middle + dice.randrange(-70, 70))
    draw.rectangle((0, edge, WIDTH * _FINE, HEIGHT * _FINE), fill=table)
    _PATTERNS[scene.top](draw, (edge, HEIGHT * _FINE), table, dice)
    draw.rectangle((0, edge - 3, WIDTH * _FINE, edge + 5), fill=shade(table, 0.7))
    return image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


def light_table(number: int, dice: random.Random) -> list[int]:
    """The lookup table for `Image.point` that applies the room's light to a frame."""
    gain = dice.uniform(0.92, 1.06)
    return [min(255, int(value * gain * part)) for part in SCENES[number].light for value in range(256)]
