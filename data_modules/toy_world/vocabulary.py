"""The vocabulary of the toy world: verbs, nouns, colours, and the verbs of each noun."""

VERBS: tuple[str, ...] = (
    "pick up", "put down", "push", "pull", "open", "close", "rotate", "shake", "pour", "cut", "wipe", "squeeze",
)
"""The verb classes: an index here is the id in `tag_verb`."""

NOUNS: tuple[str, ...] = (
    "cup", "bottle", "kettle", "bowl", "can", "jar", "pan", "plate", "apple", "banana", "carrot", "bread",
    "lemon", "sponge", "ball", "book", "box", "laptop", "phone", "scissors", "knife", "hammer", "key", "bag",
)
"""The objects."""

SYNONYMS: dict[str, str] = {
    "cup": "mug", "bottle": "flask", "kettle": "teapot", "bowl": "basin", "can": "tin", "pan": "skillet",
    "plate": "dish", "bread": "loaf", "sponge": "scrubber", "ball": "sphere", "book": "novel", "box": "carton",
    "laptop": "computer", "phone": "cellphone", "scissors": "shears", "knife": "blade", "hammer": "mallet",
    "bag": "backpack",
}
"""Names of objects that no text of the training data has; an object without an everyday synonym has none."""

TOOLS: tuple[str, ...] = ("knife", "cloth", "glass")
"""Tools for cutting, wiping and pouring."""

NOUN_IDS: dict[str, int] = {noun: i for i, noun in enumerate(dict.fromkeys(NOUNS + TOOLS))}
"""The noun classes of `tag_noun`."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44), "blue": (44, 98, 205), "green": (64, 158, 62), "yellow": (246, 206, 52),
    "orange": (240, 134, 34), "white": (242, 242, 236), "black": (52, 52, 58), "pink": (238, 128, 168),
    "purple": (132, 72, 176), "brown": (156, 98, 52), "grey": (150, 156, 164), "golden": (220, 172, 56),
}

NOUN_COLOURS: dict[str, str] = {
    "cup": "red", "bottle": "green", "kettle": "grey", "bowl": "orange", "can": "green", "jar": "purple",
    "pan": "black", "plate": "white", "apple": "red", "banana": "yellow", "carrot": "orange", "bread": "brown",
    "lemon": "yellow", "sponge": "pink", "ball": "blue", "book": "blue", "box": "brown", "laptop": "grey",
    "phone": "black", "scissors": "pink", "knife": "black", "hammer": "golden", "key": "golden", "bag": "purple",
}
"""The colour of a noun. Most colours belong to two nouns of different shapes: a small model learns both in minutes."""

ALWAYS: tuple[str, ...] = ("pick up", "put down", "push", "pull")
"""Verbs that go with every noun."""

_SOME: dict[str, str] = {
    "open": "bottle jar pan book box laptop scissors bag",
    "rotate": "cup bottle kettle pan banana carrot book phone scissors knife hammer key box bread",
    "shake": "bottle can jar box key bag ball cup",
    "pour": "cup bottle kettle bowl can jar pan",
    "cut": "apple banana carrot bread lemon sponge",
    "wipe": "plate pan phone book laptop bowl knife cup kettle hammer",
    "squeeze": "lemon sponge ball bread bag can apple",
}
AFFORDANCES: dict[str, tuple[str, ...]] = {
    noun: ALWAYS + tuple(v for v in VERBS[4:] if noun in _SOME.get("open" if v == "close" else v, "").split())
    for noun in NOUNS
}
"""The verbs that go with a noun."""

HELD_VERBS: tuple[str, ...] = ("put down", "shake", "pour")
"""Verbs that need the object in the hand; all others but `FREE_VERBS` need it on the table."""

FREE_VERBS: tuple[str, ...] = ("rotate", "squeeze")
"""Verbs that go with an object in the hand as well as on the table."""

OTHERS_VERBS: tuple[str, ...] = ("open", "close", "rotate", "cut", "wipe", "squeeze")
"""Verbs that another person at the table does: those that look the same from the other side."""

PHRASES: dict[str, tuple[str, ...]] = {
    "pick up": ("picks up {}", "picks up {} from the table", "takes {}", "lifts {}", "takes {} from the table"),
    "put down": ("puts down {}", "puts {} on the table", "places {} on the table", "drops {} on the table"),
    "push": ("pushes {}", "pushes {} away", "slides {} forward", "moves {} away"),
    "pull": ("pulls {}", "pulls {} closer", "drags {} closer", "brings {} near"),
    "open": ("opens {}", "opens up {}", "opens {} with the right hand"),
    "close": ("closes {}", "shuts {}", "closes {} with the right hand"),
    "rotate": ("rotates {}", "turns {} around", "spins {}", "turns {}"),
    "shake": ("shakes {}", "shakes {} from side to side", "swings {}"),
    "pour": ("pours water from {}", "pours water from {} into a glass", "pours from {}", "tilts {} over a glass"),
    "cut": ("cuts {}", "cuts {} with a knife", "slices {}", "chops {} with a knife"),
    "wipe": ("wipes {}", "wipes {} with a cloth", "cleans {}", "cleans {} with a cloth", "rubs {}"),
    "squeeze": ("squeezes {}", "squeezes {} with both hands", "presses {}", "presses {} with both hands"),
}
"""Phrases of the narrations for each verb; `{}` is the object."""
