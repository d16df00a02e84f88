"""Pictures of household objects, and of hands.

Each function draws an object in a colour `c`; `o` is its opening, from 0 to 1, if it can be opened.
"""

import math
from collections.abc import Callable

from egovlpv2.data_modules.toy_world.canvas import INK, STEEL, WHITE, WOOD, Colour, Pen, Points, shade


def _book(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(18, 4, 92, 96, shade(c, 0.8), 3)
    pen.rect(22, 8, 90, 92, WHITE, 2)
    for y in range(18, 88, 10):
        pen.line([(32, y), (82, y)], (150, 150, 150), 2.5)
    # The cover swings over the spine at x = 20: at o = 1 it lies to the left.
    right = 20 + 72 * math.cos(math.pi * 0.8 * o)
    lift = 12 * math.sin(math.pi * o)
    pen.poly([(20, 4), (right, 4 - lift), (right, 96 + lift), (20, 96)], c if o < 0.6 else (236, 232, 214))
    if o < 0.6:
        middle = (20 + right) / 2
        pen.poly([(middle - 14, 24), (middle + 14, 24), (middle + 14, 44), (middle - 14, 44)], (250, 226, 150), None)
    pen.rect(14, 4, 24, 96, shade(c, 0.7), 3)


def _box(pen: Pen, c: Colour, o: float) -> None:
    pale = shade(c, 1.25)
    pen.rect(8, 22, 92, 98, c)
    pen.rect(8, 8, 92, 44, (74, 46, 26))
    pen.poly([(8, 8), (8, 44), (50 - 66 * o, 44 - 14 * o), (50 - 66 * o, 8 - 14 * o)], pale)
    pen.poly([(92, 8), (92, 44), (50 + 66 * o, 44 - 14 * o), (50 + 66 * o, 8 - 14 * o)], pale)
    pen.rect(42, 46, 58, 70, (226, 206, 160), edge=False)
    pen.line([(68, 84), (82, 84)], INK, 3)


def _laptop(pen: Pen, c: Colour, o: float) -> None:
    top = 52 - 58 * o
    pen.poly([(10, 52), (90, 52), (104, 96), (-4, 96)], shade(c, 1.1))
    for y in (60, 68, 76):
        pen.line([(14 - (y - 52) * 0.2, y), (86 + (y - 52) * 0.2, y)], (70, 72, 80), 4)
    pen.rect(38, 82, 62, 92, shade(c, 0.8), 2)
    if o < 0.3:
        drop = 92 - 120 * o
        pen.poly([(10, 52), (90, 52), (102 - 30 * o, drop), (-2 + 30 * o, drop)], c)
        pen.oval(50, (52 + drop) / 2, 8, 6, WHITE)
    else:
        pen.rect(8, top, 92, 52, c, 3)
        pen.rect(14, top + 4, 86, 48, (92, 176, 240), edge=False)


def _phone(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(24, 0, 76, 100, c, 9)
    pen.rect(29, 10, 71, 86, (54, 128, 216), 2, edge=False)
    icons = ((244, 92, 80), (250, 210, 70), (96, 206, 110), (240, 240, 240), (176, 110, 220), (250, 160, 60))
    for i, colour in enumerate(icons):
        x, y = 33 + 19 * (i % 2), 18 + 21 * (i // 2)
        pen.rect(x, y, x + 14, y + 15, colour, 3, edge=False)
    pen.oval(50, 93, 4, 4, shade(c, 1.6), None)


def _scissors(pen: Pen, c: Colour, o: float) -> None:
    for side in (-1, 1):
        a = math.radians(side * (5 + 27 * o))

        def at(x: float, y: float, a: float = a) -> tuple[float, float]:
            """The points rotated about the screw at (50, 50)."""
            return 50 + x * math.cos(a) - y * math.sin(a), 50 + x * math.sin(a) + y * math.cos(a)

        pen.poly([at(-6, 6), at(6, 6), at(5, -40), at(0, -58)], STEEL)
        pen.line([at(0, 2), at(-side * 8, 22)], c, 9)
        pen.ring(*at(-side * 11, 38), 15, 19, c, 7)
    pen.oval(50, 50, 4, 4, INK)


def _knife(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(40, 60), (60, 60), (60, -8), (50, -16), (40, 12)], STEEL)
    pen.line([(56, 54), (56, -4)], WHITE, 3)
    pen.rect(38, 58, 62, 112, c, 6)
    pen.oval(50, 72, 3, 3, STEEL, None)
    pen.oval(50, 96, 3, 3, STEEL, None)


def _hammer(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(42, 20, 58, 114, c if c[0] > 180 else WOOD, 5)
    pen.poly([(10, 0), (70, 0), (98, 14), (98, 20), (70, 30), (10, 30)], (108, 114, 124))
    pen.rect(2, -6, 20, 36, (132, 138, 148), 3)


def _key(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(42, 34, 58, 108, c, 3)
    pen.rect(56, 76, 78, 88, c, 2)
    pen.rect(56, 94, 74, 106, c, 2)
    pen.ring(50, 18, 34, 34, c, 15)


def _bag(pen: Pen, c: Colour, o: float) -> None:
    pen.ring(50, 26, 26, 32, shade(c, 0.65), 7)
    pen.poly([(10, 34), (90, 34), (102, 98), (-2, 98)], c)
    pen.oval(50, 34, 40, 4 + 10 * o, (48, 30, 40))
    low = 66 - 70 * o
    pen.poly([(10, 34), (90, 34), (72, low), (28, low)], shade(c, 1.2))
    pen.oval(50, low - 4 + 8 * o, 6, 6, (246, 206, 52))
    pen.line([(4, 88), (96, 88)], shade(c, 0.75), 4)


def draw_hand(skin: Colour, sleeve: Colour, grips: bool) -> Pen:
    """A right hand seen from above, fingers up, the thumb on the left, with its arm; the palm is at (50, 50)."""
    pen = Pen(below=130)
    pen.poly([(31, 84), (69, 84), (82, 228), (18, 228)], skin)
    pen.poly([(20, 118), (80, 118), (96, 230), (4, 230)], sleeve)
    pen.rect(16, 110, 84, 124, shade(sleeve, 0.75), 5)
    lengths = (26, 34, 31, 20) if grips else (44, 54, 50, 36)
    for i, length in enumerate(lengths):
        spread = 0.2 if grips else 0.5
        x, tip = 27 + 15.5 * i, (i - 1.5) * 15 * spread
        _finger(pen, [(x, 46), (x + tip, 36 - length)], 15, skin)
    pen.oval(50, 58, 32, 33, skin)
    pen.oval(50, 58, 29, 30, skin, None)
    pen.poly([(35, 78), (65, 78), (66, 104), (34, 104)], skin, None)
    for i in range(3):
        pen.line([(35 + 15 * i, 34), (36 + 14 * i, 46)], shade(skin, 0.78), 2.5)
    _finger(pen, [(28, 70), (8, 46), (12, 24)] if grips else [(28, 70), (0, 48), (-10, 28)], 16, skin)
    return pen


def _finger(pen: Pen, points: Points, width: float, skin: Colour) -> None:
    pen.line(points, INK, width + 4)
    pen.line(points, skin, width)
    x, y = points[-1]
    pen.oval(x, y - 2, 4, 4.5, shade(skin, 1.18), None)


HOUSE_OBJECTS: dict[str, Callable[[Pen, Colour, float], None]] = {
    "book": _book, "box": _box, "laptop": _laptop, "phone": _phone, "scissors": _scissors, "knife": _knife,
    "hammer": _hammer, "key": _key, "bag": _bag,
}
