"""Motions of things and hands by verb: pure functions of the elapsed share `u` (0 to 1) of an event.

Opposite verbs are time-reversed, so that no single frame distinguishes them. Periodic motions have two periods in an
event: four frames at the centres of its quarters show them at alternate ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from egovlpv2.data_modules.toy_world.script import State

Offset = tuple[float, float]

GRIP: Offset = (0.36, 0.46)
"""Position of the right hand's grip, from the object's centre, in sizes of the object."""


@dataclass(frozen=True)
class Pose:
    """A thing and the hands on it at one moment; offsets are in sizes of the thing.

    Args:
        far: 0 at the near edge of the table, 1 at the back.
        lift: 0 on the table, 1 held up.
        shift: Sideways offset from its place.
        angle: Degrees, counter-clockwise.
        opened: 0 shut, 1 open.
        squash: 0 undeformed, 1 compressed.
        cuts: Number of cuts.
        reach: 0 if the hands are at rest, 1 if they are at the thing.
        right: Position of the right hand.
        left: Position of the left hand, if the verb needs it.
        tool: Tool in the hand.
        flow: True while water flows.
    """

    far: float
    lift: float
    opened: float
    cuts: int
    shift: float = 0.0
    angle: float = 0.0
    squash: float = 0.0
    reach: float = 0.0
    right: Offset = GRIP
    left: Offset | None = None
    tool: str = ""
    flow: bool = False


def rest(state: State) -> Pose:
    """The pose of a thing at rest."""
    return Pose(0.0 if state.near else 1.0, float(state.held), float(state.opened), 3 if state.cut else 0)


def ease(x: float) -> float:
    """Smooth step from 0 to 1."""
    x = min(1.0, max(0.0, x))
    return x * x * (3 - 2 * x)


def _swing(u: float) -> float:
    """Two periods from -1 to 1 and back, with the extremes at the centres of an event's quarters."""
    return math.sin(4 * math.pi * u)


def _lift(pose: Pose, a: float, u: float) -> Pose:
    return replace(pose, lift=a)


def _slide(pose: Pose, a: float, u: float) -> Pose:
    return replace(pose, far=a)


def _open(pose: Pose, a: float, u: float) -> Pose:
    return replace(pose, opened=a, right=(0.46 + 0.2 * a, 0.22 - 0.14 * a), left=(-0.48, 0.5))


def _rotate(pose: Pose, a: float, u: float) -> Pose:
    turn = math.radians(50) * math.sin(2 * math.pi * a)
    right = (0.36 + 0.2 * math.sin(turn), 0.48 * math.cos(turn))
    return replace(pose, angle=360 * a, right=right)


def _shake(pose: Pose, a: float, u: float) -> Pose:
    swing = pose.reach * _swing(u)
    return replace(pose, shift=0.36 * swing, angle=-24 * swing)


def _pour(pose: Pose, a: float, u: float) -> Pose:
    tilt = ease((u - 0.1) / 0.22) * ease((0.9 - u) / 0.22)
    return replace(pose, angle=112 * tilt, flow=tilt > 0.7, left=(-0.68, 1.0), tool="glass")


def _cut(pose: Pose, a: float, u: float) -> Pose:
    right = (0.6 - 0.5 * a, 0.46 + 0.24 * _swing(u))
    return replace(pose, right=right, left=(-0.56, 0.46), tool="knife", cuts=max(pose.cuts, int(3.5 * a)))


def _wipe(pose: Pose, a: float, u: float) -> Pose:
    return replace(pose, right=(0.12 + 0.5 * _swing(u), 0.44), tool="cloth")


def _squeeze(pose: Pose, a: float, u: float) -> Pose:
    squash = pose.reach * (0.5 + 0.5 * _swing(u))
    grip = 0.66 - 0.2 * squash
    return replace(pose, squash=squash, right=(grip, 0.32), left=(-grip, 0.32))


_MOTIONS: dict[str, Callable[[Pose, float, float], Pose]] = {
    "pick up": _lift, "put down": _lift, "push": _slide, "pull": _slide, "open": _open, "close": _open,
    "rotate": _rotate, "shake": _shake, "pour": _pour, "cut": _cut, "wipe": _wipe, "squeeze": _squeeze,
}
_BACKWARDS = ("put down", "pull", "close")


def pose_at(verb: str, state: State, u: float) -> Pose:
    """The pose of the thing that is acted on, and of the hands.

    Args:
        verb: One of `VERBS`.
        state: State of the thing before the event.
        u: Elapsed share of the event.
    """
    come = 1.0 if state.held else ease(u / 0.14)
    leave = 1.0 if state.after(verb).held else ease((1 - u) / 0.14)
    progress = ease((u - 0.14) / 0.72)
    pose = replace(rest(state), reach=come * leave)
    return _MOTIONS[verb](pose, 1 - progress if verb in _BACKWARDS else progress, u)
