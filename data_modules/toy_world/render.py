"""Render a script: draw the frames of a video and encode them."""

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from egovlpv2.data_modules.toy_world.canvas import MARGIN, Pen
from egovlpv2.data_modules.toy_world.house_objects import HOUSE_OBJECTS, draw_hand
from egovlpv2.data_modules.toy_world.kitchen_objects import KITCHEN_OBJECTS
from egovlpv2.data_modules.toy_world.motion import Pose, ease, pose_at, rest
from egovlpv2.data_modules.toy_world.scenes import WIDTH, draw_scene, light_table
from egovlpv2.data_modules.toy_world.script import Event, Video
from egovlpv2.data_modules.toy_world.vocabulary import COLOURS

SIZE = 128
"""Width and height of a frame, in pixels."""

_OBJECT, _HAND = 58, 34  # pixels of the 100 units of an object's and a hand's box
_FIRST_X, _STEP_X, _FAR_Y, _NEAR_Y, _RISE = 76, 92, 68, 98, 27
_HOMES = {"right": (100, 124), "left": (26, 126), "other": (50, -34)}
_SHOULDERS = {"right": (116, 200), "left": (12, 200), "other": (60, -110)}
_SKINS = ((240, 200, 168), (222, 168, 128), (172, 118, 82), (120, 78, 54))
_SLEEVES = ((88, 98, 118), (108, 90, 92), (92, 104, 96), (80, 78, 84), (150, 142, 126))
_DRAWINGS = {**KITCHEN_OBJECTS, **HOUSE_OBJECTS}


def draw_object(noun: str, colour: str, opened: float = 0.0, cuts: int = 0) -> Image.Image:
    """A large picture of an object or a tool on a transparent background."""
    pen = Pen()
    _DRAWINGS[noun](pen, COLOURS[colour], opened)
    draw, side = ImageDraw.Draw(pen.image), pen.image.width
    for i in range(cuts):
        x = side * (0.64 - 0.14 * i)
        draw.line((x + 8, 0, x - 8, side), fill=(0, 0, 0, 0), width=9)
    return pen.image


class Stage:
    """A renderer of any moment of a video.

    Scaled and rotated pictures are cached, since they recur.
    """

    def __init__(self, video: Video) -> None:
        dice = random.Random(video.seed)
        self._video, self._states = video, video.states()
        self._backdrop, self._light = draw_scene(video.scene, dice), light_table(video.scene, dice)
        places = (t.slot if t.slot >= 0 else dice.choice((0.5, 1.5, 2.5, 3.5)) for t in video.things)
        self._spots = [_FIRST_X + _STEP_X * place + dice.uniform(-4, 4) for place in places]
        self._sizes = [dice.uniform(0.94, 1.08) * _OBJECT for _ in video.things]
        self._phases = [dice.uniform(0, 6.28) for _ in range(4)]
        looks = dice.sample(_SKINS, 2), dice.sample(_SLEEVES, 2)
        self._hands = {
            (person, grips): draw_hand(skin, sleeve, grips).image
            for person, skin, sleeve in zip("CO", *looks, strict=True)
            for grips in (True, False)
        }
        self._pictures: dict[tuple[object, ...], Image.Image] = {}

    def frame(self, time: float) -> Image.Image:
        """The frame at a time in seconds."""
        index = next((i for i, e in enumerate(self._video.events) if time < e.end), len(self._video.events))
        event = self._video.events[index] if index < len(self._video.events) else None
        if event and time < event.start:
            event = None
        poses = [rest(state) for state in self._states[index]]
        if event:
            u = (time - event.start) / (event.end - event.start)
            poses[event.thing] = pose_at(event.verb, self._states[index][event.thing], u)
        x, y = self._camera(time, index)
        image = self._backdrop.crop((x, y, x + SIZE, y + SIZE))
        acted = event.thing if event else next((i for i, p in enumerate(poses) if p.lift), -1)
        for i in sorted(range(len(poses)), key=lambda i: (i == acted, -poses[i].far)):
            self._paste_thing(image, i, poses[i], (x, y))
        self._paste_hands(image, event, acted, poses[acted] if acted >= 0 else None, (x, y))
        return image.point(self._light)

    def _camera(self, time: float, index: int) -> tuple[int, int]:
        """The corner of the camera's view, which follows the thing that is acted on, and shakes."""
        events, p = self._video.events, self._phases
        now, before = events[min(index, len(events) - 1)], events[max(0, min(index, len(events)) - 1)]
        turn = ease((time - now.start) / (0.2 * (now.end - now.start)))
        focus = self._spots[before.thing] * (1 - turn) + self._spots[now.thing] * turn
        x = (
            WIDTH / 2
            + 0.96 * (focus - WIDTH / 2)
            - SIZE / 2
            + 1.6 * math.sin(2.1 * time + p[0])
            + math.sin(5.3 * time + p[1])
        )
        y = 11 + 1.6 * math.sin(1.7 * time + p[2]) + math.sin(4.7 * time + p[3])
        return round(x), round(y)

    def _place(self, i: int, pose: Pose, corner: tuple[int, int]) -> tuple[float, float, float]:
        """Centre and size of a thing in the frame."""
        size = self._sizes[i] * (1 - 0.24 * pose.far) * (1 + 0.3 * pose.lift)
        y = _NEAR_Y + (_FAR_Y - _NEAR_Y) * pose.far - _RISE * pose.lift
        return self._spots[i] + pose.shift * size - corner[0], y - corner[1], size

    def _paste_thing(self, image: Image.Image, i: int, pose: Pose, corner: tuple[int, int]) -> None:
        x, y, size = self._place(i, pose, corner)
        self._paste(image, self._shadow(round(size)), (x, y + size * 0.42 + _RISE * 1.1 * pose.lift))
        if pose.flow:
            # Water flows from the mouth, which points to the left, down into the glass.
            draw, mouth = ImageDraw.Draw(image), x - size * 0.5
            draw.line((mouth, y + size * 0.12, mouth - size * 0.12, y + size * 0.72), fill=(70, 150, 235), width=6)
        thing = self._video.things[i]
        key = (thing.noun, thing.colour, round(pose.opened * 5) / 5, pose.cuts)
        picture = self._picture(key, round(size), round(pose.squash * 6) / 6, round(pose.angle / 6) * 6 % 360)
        self._paste(image, picture, (x, y))

    def _picture(self, key: tuple[str, str, float, int], size: int, squash: float, angle: int) -> Image.Image:
        """An object, scaled, squashed and rotated."""
        whole = (*key, size, squash, angle)
        if whole not in self._pictures:
            if key not in self._pictures:
                self._pictures[key] = draw_object(*key)
            side = size * (100 + 2 * MARGIN) / 100
            shape = (round(side * (1 - 0.36 * squash)), round(side * (1 + 0.2 * squash)))
            scaled = self._pictures[key].resize(shape, Image.Resampling.BOX, reducing_gap=2)
            self._pictures[whole] = scaled.rotate(angle, Image.Resampling.BICUBIC, expand=True) if angle else scaled
        return self._pictures[whole]

    def _shadow(self, size: int) -> Image.Image:
        if ("shadow", size) not in self._pictures:
            shadow = Image.new("RGBA", (size + 12, size // 4 + 12), (20, 16, 20, 0))
            ImageDraw.Draw(shadow).ellipse((6, 6, size + 5, size // 4 + 5), fill=(20, 16, 20, 110))
            self._pictures["shadow", size] = shadow.filter(ImageFilter.GaussianBlur(2))
        return self._pictures["shadow", size]

    def _paste_hands(
        self, image: Image.Image, event: Event | None, acted: int, pose: Pose | None, corner: tuple[int, int]
    ) -> None:
        """Draw both hands of the wearer and, while another person acts, that person's."""
        if pose is None or (event and event.wearer == "O"):
            self._paste_hand(image, "left", _HOMES["left"], False)
            self._paste_hand(image, "right", _HOMES["right"], False)
        if pose is None:
            return
        x, y, size = self._place(acted, pose, corner)
        reach = pose.reach if event else 1.0
        other = event is not None and event.wearer == "O"
        sides = (("other", pose.right, -1),) if other else (("left", pose.left, 1), ("right", pose.right, 1))
        for side, offset, sign in sides:
            home, near = _HOMES[side], offset is not None
            goal = home if offset is None else (x + sign * offset[0] * size, y + sign * offset[1] * size)
            at = (home[0] + (goal[0] - home[0]) * reach, home[1] + (goal[1] - home[1]) * reach)
            if pose.tool and near and (pose.tool == "glass") == (side == "left"):
                self._paste_tool(image, pose.tool, at, sign)
            self._paste_hand(image, side, at, near and reach > 0.8)

    def _paste_tool(self, image: Image.Image, tool: str, at: tuple[float, float], sign: int) -> None:
        """Draw the tool in a hand, seen from the other side if `sign` is -1."""
        dx, dy, angle, size = {"knife": (-8, -19, 24, 42), "cloth": (-4, -15, 0, 40), "glass": (3, -15, 0, 38)}[tool]
        colour = "black" if tool == "knife" else "pink"
        picture = self._picture((tool, colour, 0.0, 0), size, 0.0, angle if sign > 0 else angle + 180)
        self._paste(image, picture, (at[0] + sign * dx, at[1] + sign * dy))

    def _paste_hand(self, image: Image.Image, side: str, at: tuple[float, float], grips: bool) -> None:
        """Draw a hand whose arm comes from the shoulder."""
        shoulder = _SHOULDERS[side]
        angle = round(math.degrees(math.atan2(shoulder[0] - at[0], shoulder[1] - at[1])) / 4) * 4
        key = ("hand", side, grips, angle)
        if key not in self._pictures:
            self._pictures[key] = self._turn_hand(side, grips, angle)
        self._paste(image, self._pictures[key], at)

    def _turn_hand(self, side: str, grips: bool, angle: int) -> Image.Image:
        """The hand rotated about its palm, which is the centre of the result."""
        drawn = self._hands["O" if side == "other" else "C", grips]
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if side == "left" else drawn
        scale = _HAND * (100 + 2 * MARGIN) / 100 / drawn.width
        small = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.BOX)
        reach = 2 * (small.height - small.width // 2)
        square = Image.new("RGBA", (reach, reach))
        square.paste(small, ((reach - small.width) // 2, (reach - small.width) // 2))
        return square.rotate(angle, Image.Resampling.BICUBIC)

    @staticmethod
    def _paste(image: Image.Image, picture: Image.Image, centre: tuple[float, float]) -> None:
        image.paste(picture, (round(centre[0] - picture.width / 2), round(centre[1] - picture.height / 2)), picture)


def film(video: Video, fps: int) -> Iterator[Image.Image]:
    """All frames of a video, in order."""
    stage = Stage(video)
    return (stage.frame(i / fps) for i in range(round(video.duration * fps)))


def encode(frames: list[Image.Image], path: Path, fps: int) -> None:
    """Write an H.264 file that begins at time 0 and has a keyframe every half second, cheap to decode."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        keyframes = str(max(1, fps // 2))  # frames from one to the next
        stream.options = {"preset": "superfast", "tune": "fastdecode", "crf": "21", "g": keyframes, "bf": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode())
