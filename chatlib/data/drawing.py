"""Small pictures of products, and the codes that a language model reads instead of pixels.

A picture is a canvas with one product on it, in one colour. It is cut into square patches, and
each patch is replaced by the nearest entry of a codebook: vector quantisation, as in VQ-VAE (van
den Oord et al. 2017) and DALL-E (Ramesh et al. 2021). Their codebooks are learned; this one is a
fixed grid of colours and patterns, so that a reader can say what a code means. All of it is
integer arithmetic, equal on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (SIDE, SIDE, 3): rows, columns, red-green-blue from 0 to 255
Codes = tuple[int, ...]  # of the PATCHES patches, row by row

SIDE = 16  # of a picture, in pixels
PATCH = 4  # side of a patch, in pixels
PATCHES = (SIDE // PATCH) ** 2
SIZES = range(12, 16)  # side of the square that a product fills, in pixels
LIGHT = range(80, 116)  # brightness of a picture, in percent
NOISE = 20  # largest change of a pixel's value by noise
CANVAS = (128, 128, 128)
COLOURS = {
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (240, 220, 50),
    "purple": (160, 60, 190),
    "brown": (120, 65, 15),
}

# Each product as it is drawn, on a grid of 8 by 8 that is stretched to its size.
SHAPES = {
    "bowl": """
        ........
        ........
        ########
        ########
        ########
        .######.
        ..####..
        ........""",
    "chair": """
        ##......
        ##......
        ##......
        ##......
        ########
        ########
        ##....##
        ##....##""",
    "clock": """
        ..####..
        .######.
        ###..###
        ##....##
        ##....##
        ###..###
        .######.
        ..####..""",
    "desk": """
        ........
        ########
        ########
        ##....##
        ##....##
        ##....##
        ##....##
        ##....##""",
    "lamp": """
        ...##...
        ..####..
        .######.
        ########
        ...##...
        ...##...
        ...##...
        .######.""",
    "ladder": """
        .#....#.
        .######.
        .#....#.
        .######.
        .#....#.
        .######.
        .#....#.
        .#....#.""",
    "pan": """
        ........
        .###....
        #####...
        ########
        ########
        #####...
        .###....
        ........""",
    "pillow": """
        ........
        ########
        ########
        ########
        ########
        ########
        ########
        ........""",
}

# What a patch may show of a product, row by row: the codebook's patterns, in their codes' order.
PATTERNS = (
    "#### #### #### ####",
    "#### #### .... ....",
    ".... .... #### ####",
    "##.. ##.. ##.. ##..",
    "..## ..## ..## ..##",
    "#... #... #... #...",
    "...# ...# ...# ...#",
)
CODES = 1 + len(COLOURS) * len(PATTERNS)  # code 0 is the empty canvas


@dataclass(frozen=True)
class Drawing:
    """All that a picture depends on; ``left`` and ``top`` are pixels, ``light`` is percent.

    ``grain`` is the seed of the noise.
    """

    product: str
    colour: str
    size: int
    left: int
    top: int
    light: int
    grain: int


def drawing(rng: Random, product: str, colour: str) -> Drawing:
    """A picture of a product at a random place, in a random size and light."""
    size = rng.choice(SIZES)
    left, top = rng.randint(0, SIDE - size), rng.randint(0, SIDE - size)
    return Drawing(product, colour, size, left, top, rng.choice(LIGHT), rng.getrandbits(32))


def draw(d: Drawing) -> Image:
    """The pixels (SIDE, SIDE, 3) of a picture; the same for the same drawing."""
    scene = np.full((SIDE, SIDE, 3), CANVAS, dtype=np.int64)
    place = scene[d.top : d.top + d.size, d.left : d.left + d.size]
    place[_outline(d.product, d.size)] = COLOURS[d.colour]
    grain = np.frombuffer(Random(d.grain).randbytes(scene.size), dtype=np.uint8)
    noise = grain.reshape(scene.shape).astype(np.int64) % (2 * NOISE + 1) - NOISE
    return np.clip(scene * d.light // 100 + noise, 0, 255).astype(np.uint8)


def _grid(rows: str) -> NDArray[np.bool_]:
    """Rows of ``#`` and ``.`` as truth values."""
    return np.array([[mark == "#" for mark in row] for row in rows.split()])


@cache
def _outline(product: str, size: int) -> NDArray[np.bool_]:
    """Which pixels (size, size) of its square a product fills."""
    shape = _grid(SHAPES[product])
    stretched = np.arange(size) * len(shape) // size
    return shape[np.ix_(stretched, stretched)]


# ------------------------------------------------------------------------- codes
_PALETTE = np.array([CANVAS, *COLOURS.values()], dtype=np.int64)  # (1 + colours, 3)
_TEMPLATES = np.array(
    [np.zeros(PATCH * PATCH), *(_grid(rows).ravel() for rows in PATTERNS)], dtype=np.int64
)  # (1 + patterns, pixels of a patch); the first is the empty canvas


def _cut(field: NDArray[np.int64]) -> NDArray[np.int64]:
    """A value for every pixel (SIDE, SIDE), sorted into patches (PATCHES, pixels of a patch)."""
    n = SIDE // PATCH
    return field.reshape(n, PATCH, n, PATCH).swapaxes(1, 2).reshape(PATCHES, PATCH * PATCH)


def _nearest(points: NDArray[np.int64], entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each point (..., d) the index of the nearest of the entries (k, d); the first of ties."""
    squared = (entries**2).sum(-1) - 2 * points @ entries.T  # less |point|^2, equal for all
    return squared.argmin(-1)


def patches(image: Image) -> Codes:
    """The codes of a picture's patches, row by row.

    Of each pixel the nearest colour is taken, of each patch the pattern nearest to its pixels off
    the canvas and the colour that most of these have. Raises `ValueError` for another shape.
    """
    if image.shape != (SIDE, SIDE, 3):
        raise ValueError(f"`patches` was given shape {image.shape}; give ({SIDE}, {SIDE}, 3)")
    colours = _cut(_nearest(image.astype(np.int64), _PALETTE))
    most = (colours[:, :, None] == np.arange(1, len(_PALETTE))).sum(1).argmax(1)
    pattern = _nearest((colours > 0).astype(np.int64), _TEMPLATES)
    return tuple(np.where(pattern == 0, 0, most * len(PATTERNS) + pattern).tolist())


def check_codes(codes: Sequence[int]) -> None:
    """Raise `ValueError` unless these are the codes of a picture."""
    if len(codes) != PATCHES:
        raise ValueError(f"a picture was given {len(codes)} codes; give {PATCHES}, one a patch")
    wrong = [code for code in codes if code not in range(CODES)]
    if wrong:
        raise ValueError(f"a picture was given the code {wrong[0]}; give codes of 0 to {CODES - 1}")


def reconstruct(codes: Sequence[int]) -> Image:
    """The picture (SIDE, SIDE, 3) as far as its codes keep it: the decoder of the codebook.

    Raises `ValueError` for codes that are no picture's.
    """
    check_codes(codes)
    image = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    for place, code in enumerate(codes):
        row, column = (PATCH * i for i in divmod(place, SIDE // PATCH))
        image[row : row + PATCH, column : column + PATCH] = _shown(code)
    return image


def _shown(code: int) -> NDArray[np.int64]:
    """The pixels (PATCH, PATCH, 3) that a code stands for."""
    colour, pattern = divmod(code - 1, len(PATTERNS)) if code else (-1, -1)
    inside = _TEMPLATES[pattern + 1].reshape(PATCH, PATCH, 1)
    return np.where(inside, _PALETTE[colour + 1], _PALETTE[0])


def blank() -> Codes:
    """The codes of an empty canvas: a picture that shows nothing."""
    return patches(np.full((SIDE, SIDE, 3), CANVAS, dtype=np.uint8))
