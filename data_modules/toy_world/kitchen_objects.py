"""Pictures of food and kitchen objects.

Each function draws an object in a colour `c`; `o` is its opening, from 0 to 1, if it can be opened.
"""

import math
from collections.abc import Callable

from egovlpv2.data_modules.toy_world.canvas import INK, LEAF, STEEL, WHITE, Colour, Pen, Points, shade


def _cup(pen: Pen, c: Colour, o: float) -> None:
    pen.ring(72, 55, 20, 19, c, 8)
    pen.poly([(14, 24), (68, 24), (64, 84), (56, 92), (26, 92), (18, 84)], c)
    pen.rect(22, 34, 29, 80, shade(c, 1.3), 3, edge=False)
    pen.oval(41, 24, 28, 10, shade(c, 0.55))


def _bottle(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(42, 14), (58, 14), (58, 32), (70, 46), (70, 100), (30, 100), (30, 46), (42, 32)], c)
    pen.rect(30, 56, 70, 82, WHITE)
    pen.oval(50, 69, 8, 8, shade(c, 0.8), None)
    pen.rect(35, 44, 40, 54, shade(c, 1.5), 2, edge=False)
    pen.rect(38 + 40 * o, 2 - 8 * o, 62 + 40 * o, 16 - 8 * o, (232, 72, 60), 3)


def _kettle(pen: Pen, c: Colour, o: float) -> None:
    pen.ring(50, 34, 26, 30, INK, 5)
    pen.poly([(26, 62), (2, 38), (12, 32), (34, 48)], shade(c, 0.9))
    pen.poly([(34, 34), (66, 34), (88, 78), (84, 92), (16, 92), (12, 78)], c)
    pen.oval(50, 35, 17, 6, shade(c, 0.75))
    pen.oval(50, 28, 5, 5, INK)
    pen.line([(32, 54), (24, 76)], shade(c, 1.35), 6)


def _bowl(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(30, 84), (70, 84), (66, 94), (34, 94)], shade(c, 0.8))
    side = [(50 + 48 * math.cos(a / 12 * math.pi), 42 + 46 * math.sin(a / 12 * math.pi)) for a in range(13)]
    pen.poly(side, c)
    pen.line([(14, 60), (86, 60)], shade(c, 0.7), 4)
    pen.oval(50, 42, 48, 15, shade(c, 0.6))


def _can(pen: Pen, c: Colour, o: float) -> None:
    pen.oval(50, 88, 26, 10, STEEL)
    pen.rect(24, 18, 76, 88, c)
    pen.poly([(24, 64), (76, 36), (76, 52), (24, 80)], WHITE, None)
    pen.oval(50, 18, 26, 10, STEEL)
    pen.oval(50, 17, 10, 4, shade(STEEL, 0.6))


def _jar(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(20, 24, 80, 98, (206, 228, 236), 12)
    pen.rect(26, 44, 74, 92, c, 8, edge=False)
    pen.rect(34, 56, 66, 78, WHITE, 3)
    pen.line([(27, 34), (27, 40)], WHITE, 4)
    pen.rect(18 + 52 * o, 8 - 20 * o, 82 + 36 * o, 26 - 20 * o, (226, 186, 70), 4)


def _pan(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(66, 60), (76, 50), (116, 90), (106, 100)], shade(c, 0.8))
    pen.oval(42, 42, 42, 42, c)
    pen.oval(42, 42, 34, 34, (122, 122, 128))
    pen.oval(42, 46, 16, 12, (250, 246, 230), None)
    pen.oval(42, 46, 7, 6, (246, 186, 42), None)
    x, y = 42 - 34 * o, 42 - 36 * o
    pen.oval(x, y, 31 - 8 * o, 31 - 8 * o, (178, 202, 214))
    pen.oval(x, y, 7, 7, INK)


def _plate(pen: Pen, c: Colour, o: float) -> None:
    pen.oval(50, 50, 49, 49, c)
    pen.ring(50, 50, 42, 42, (58, 112, 196), 3)
    pen.oval(50, 50, 28, 28, shade(c, 0.9), shade(c, 0.7))


def _apple(pen: Pen, c: Colour, o: float) -> None:
    pen.oval(36, 58, 33, 38, c)
    pen.oval(64, 58, 33, 38, c)
    pen.oval(50, 62, 26, 33, c, None)
    pen.oval(30, 46, 8, 11, shade(c, 1.5), None)
    pen.line([(50, 28), (54, 6)], (94, 60, 32), 6)
    pen.poly([(54, 18), (68, 4), (86, 6), (74, 20)], LEAF)


def _banana(pen: Pen, c: Colour, o: float) -> None:
    def arc(rx: float, ry: float, y: float) -> Points:
        return [(50 - rx * math.cos(a / 12 * math.pi), y + ry * math.sin(a / 12 * math.pi)) for a in range(13)]

    pen.poly(arc(52, 66, 22) + arc(38, 28, 22)[::-1], c)
    pen.line(arc(44, 48, 26)[2:-2], shade(c, 0.8), 3)
    pen.poly([(-2, 22), (12, 22), (8, 8), (0, 8)], (96, 70, 30))
    pen.poly([(88, 22), (102, 22), (98, 16), (92, 16)], (96, 70, 30))


def _carrot(pen: Pen, c: Colour, o: float) -> None:
    for x, y in ((96, -6), (108, 6), (82, -10), (110, 20)):
        pen.line([(76, 24), (x, y)], LEAF, 8)
    pen.poly([(60, 16), (86, 42), (40, 78), (2, 100), (24, 62)], c)
    for x, y in ((58, 34), (44, 50), (30, 68)):
        pen.line([(x, y), (x + 12, y + 10)], shade(c, 0.75), 3)


def _bread(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(0, 26, 100, 84, c, 26)
    pen.rect(6, 66, 94, 82, (222, 178, 112), 8, edge=False)
    for x in (22, 44, 66):
        pen.line([(x, 58), (x + 14, 36)], (236, 202, 142), 7)


def _lemon(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(-4, 50), (14, 36), (14, 64)], c)
    pen.poly([(104, 50), (86, 36), (86, 64)], c)
    pen.oval(50, 50, 43, 33, c)
    pen.oval(50, 50, 41, 31, c, None)
    pen.oval(36, 38, 11, 6, shade(c, 1.2), None)
    for x, y in ((56, 44), (66, 56), (48, 62), (72, 44), (32, 58)):
        pen.oval(x, y, 2, 2, shade(c, 0.78), None)


def _sponge(pen: Pen, c: Colour, o: float) -> None:
    pen.rect(0, 24, 100, 82, c, 8)
    pen.rect(2, 60, 98, 80, (58, 140, 86), 6, edge=False)
    for x, y, r in ((16, 38, 5), (36, 48, 4), (52, 36, 6), (70, 48, 4), (86, 38, 5), (26, 34, 3), (62, 52, 3)):
        pen.oval(x, y, r, r, shade(c, 0.72), None)


def _ball(pen: Pen, c: Colour, o: float) -> None:
    pen.oval(50, 50, 46, 46, WHITE)
    for start in (20, 140, 260):
        wedge = [(50 + 44 * math.cos(math.radians(a)), 50 + 44 * math.sin(math.radians(a)))
                 for a in range(start, start + 61, 10)]
        pen.poly([(50, 50), *wedge], c)
    pen.oval(50, 50, 9, 9, (246, 206, 52))


def _glass(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(22, 10), (78, 10), (70, 98), (30, 98)], (214, 234, 244))
    pen.poly([(27, 50), (73, 50), (68, 94), (32, 94)], (92, 170, 232), None)
    pen.oval(50, 10, 28, 8, (236, 246, 250))


def _cloth(pen: Pen, c: Colour, o: float) -> None:
    pen.poly([(4, 30), (26, 20), (52, 28), (80, 18), (98, 34), (94, 62), (100, 84), (60, 78), (30, 88), (0, 76)], c)
    for x in (22, 48, 74):
        pen.line([(x, 32), (x - 6, 74)], WHITE, 6)
    pen.line([(12, 54), (90, 54)], WHITE, 6)


KITCHEN_OBJECTS: dict[str, Callable[[Pen, Colour, float], None]] = {
    "cup": _cup, "bottle": _bottle, "kettle": _kettle, "bowl": _bowl, "can": _can, "jar": _jar, "pan": _pan,
    "plate": _plate, "apple": _apple, "banana": _banana, "carrot": _carrot, "bread": _bread, "lemon": _lemon,
    "sponge": _sponge, "ball": _ball, "glass": _glass, "cloth": _cloth,
}
