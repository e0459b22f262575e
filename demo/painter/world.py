"""What exists in the toon world: characters, colours, backgrounds, actions, captions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

RGB = tuple[int, int, int]

# Each character wears one kind of garment, so that the noun after the clothes colour is determined.
CHARACTERS: dict[str, str] = {"girl": "dress", "boy": "shirt", "cat": "coat"}

HAIR: dict[str, RGB] = {
    "red": (208, 38, 44),
    "blue": (44, 84, 222),
    "green": (28, 138, 72),
    "blonde": (250, 214, 92),
    "purple": (124, 58, 196),
    "white": (226, 226, 238),
}

CLOTHES: dict[str, RGB] = {
    "red": (222, 56, 60),
    "blue": (52, 104, 226),
    "white": (242, 242, 246),
    "black": (62, 56, 74),
}

# sky, sun or moon, far hills, near hills, ground, ground stripe
BACKGROUNDS: dict[str, tuple[RGB, RGB, RGB, RGB, RGB, RGB]] = {
    "sunset": ((248, 186, 158), (255, 240, 204), (206, 132, 138), (160, 96, 118), (122, 80, 98), (100, 62, 82)),
    "night": ((32, 38, 86), (240, 238, 206), (52, 60, 116), (40, 46, 92), (58, 66, 82), (46, 52, 66)),
    "meadow": ((152, 206, 250), (255, 250, 216), (144, 198, 150), (108, 172, 116), (134, 186, 100), (112, 162, 84)),
    "snow": ((196, 212, 234), (255, 255, 250), (220, 228, 244), (178, 196, 222), (238, 243, 250), (212, 222, 238)),
}

ACTIONS: tuple[str, ...] = ("run", "jump", "wave", "turn", "pan", "zoom")

# Gloves and boots look the same on every character and nothing else comes near these colours, so a limb can be
# followed in a rendered picture by colour alone. "near" is the limb in front of the body.
LIMB_COLOURS: dict[str, RGB] = {
    "near_hand": (255, 128, 0),
    "far_hand": (156, 255, 0),
    "near_foot": (255, 0, 190),
    "far_foot": (0, 226, 236),
}

OUTLINE: RGB = (34, 24, 44)
SKIN: RGB = (255, 222, 196)
EYE: RGB = (40, 30, 60)
EYE_LIGHT: RGB = (255, 255, 255)
MOUTH: RGB = (196, 84, 84)


@dataclass(frozen=True)
class Spec:
    """One attribute combination. Raises ValueError for an attribute that the world does not have."""

    character: str
    hair: str
    clothes: str
    background: str
    action: str

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"toon world: {name} {value!r} does not exist; choose one of {', '.join(known)}")

    @property
    def caption(self) -> str:
        garment = CHARACTERS[self.character]
        return f"{self.character}, {self.hair} hair, {self.clothes} {garment}, {self.background}, {self.action}"

    @property
    def held_out(self) -> bool:
        """True for hair x background x action triples that no training program of this repository ever sees."""
        hair, background = list(HAIR).index(self.hair), list(BACKGROUNDS).index(self.background)
        return (hair + 2 * background + ACTIONS.index(self.action)) % 9 == 0

    @classmethod
    def parse(cls, caption: str) -> Spec:
        """Inverse of `caption`. Raises ValueError that shows the expected form."""
        words = [part.split() for part in caption.split(",")]
        if [len(part) for part in words] != [1, 2, 2, 1, 1]:
            raise ValueError(
                f"toon world: cannot read {caption!r}; write e.g. 'girl, blue hair, red dress, sunset, run'"
            )
        return cls(*(part[0] for part in words))


_KNOWN = {"character": CHARACTERS, "hair": HAIR, "clothes": CLOTHES, "background": BACKGROUNDS, "action": ACTIONS}
_ALL = [Spec(*values) for values in itertools.product(*_KNOWN.values())]
TRAIN: tuple[str, ...] = tuple(spec.caption for spec in _ALL if not spec.held_out)
HELD_OUT: tuple[str, ...] = tuple(spec.caption for spec in _ALL if spec.held_out)
