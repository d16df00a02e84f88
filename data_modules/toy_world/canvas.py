"""A canvas for outlined shapes in a box of 100 x 100 units, larger than in the frames."""

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

MARGIN = 22  # units around the box for lids and covers
UNIT = 2  # pixels per unit: about four times the size in a frame, so that scaling down smooths the edges
INK: Colour = (38, 32, 34)
WHITE: Colour = (250, 250, 246)
STEEL: Colour = (196, 204, 214)
WOOD: Colour = (186, 128, 72)
LEAF: Colour = (62, 142, 54)


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (`factor` < 1) or lighter (> 1) tone."""
    red, green, blue = (int(min(255, c * factor + max(0.0, factor - 1) * 40)) for c in colour)
    return red, green, blue


class Pen:
    """A pen that draws outlined shapes in units of an object's box.

    Args:
        below: Additional units under the box.
    """

    def __init__(self, below: int = 0) -> None:
        side = 100 + 2 * MARGIN
        self.image = Image.new("RGBA", (side * UNIT, (side + below) * UNIT), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def _to_pixels(self, points: Points) -> Points:
        return [((x + MARGIN) * UNIT, (y + MARGIN) * UNIT) for x, y in points]

    def poly(self, points: Points, fill: Colour, edge: Colour | None = INK) -> None:
        """A closed shape."""
        pixels = self._to_pixels(points)
        self._draw.polygon(pixels, fill=fill)
        if edge:
            self._draw.line([*pixels, *pixels[:2]], fill=edge, width=2 * UNIT, joint="curve")

    def line(self, points: Points, colour: Colour, width: float = 3) -> None:
        """A stroke with round ends."""
        pixels = self._to_pixels(points)
        self._draw.line(pixels, fill=colour, width=round(width * UNIT), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            r = width * UNIT / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour | None, edge: Colour | None = INK) -> None:
        """An ellipse around (x, y)."""
        (left, top), (right, bottom) = self._to_pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((left, top, right, bottom), fill=fill, outline=edge, width=2 * UNIT if edge else 0)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, r: float = 0, edge: bool = True) -> None:
        """A rectangle with corners rounded by `r`."""
        (left, top), (right, bottom) = self._to_pixels([(x0, y0), (x1, y1)])
        ink = INK if edge else None
        self._draw.rounded_rectangle((left, top, right, bottom), r * UNIT, fill, ink, 2 * UNIT if edge else 0)

    def ring(self, x: float, y: float, rx: float, ry: float, colour: Colour, width: float) -> None:
        """A thick outline of an ellipse."""
        (left, top), (right, bottom) = self._to_pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((left, top, right, bottom), outline=INK, width=round((width + 3) * UNIT))
        inset = 1.5 * UNIT
        box = (left + inset, top + inset, right - inset, bottom - inset)
        self._draw.ellipse(box, outline=colour, width=round(width * UNIT))
