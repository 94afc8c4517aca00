"""Pictures and their codes: the same everywhere, true to the colour, none in an empty one."""

from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlib.data import drawing
from chatlib.data.drawing import COLOURS, PATCH, PATCHES, SHAPES, SIDE, Drawing

RED = Drawing("pillow", "red", size=8, left=0, top=1, light=100, grain=7)


@st.composite
def drawings(draw):
    """Any picture that `drawing.drawing` can draw."""
    product, colour = draw(st.sampled_from([*SHAPES])), draw(st.sampled_from([*COLOURS]))
    return drawing.drawing(Random(draw(st.integers(0, 10**9))), product, colour)


def test_there_are_enough_shapes_and_colours_and_at_most_64_codes():
    assert len(SHAPES) >= 8 and len(COLOURS) >= 8 and drawing.CODES <= 64
    outlines = [drawing._grid(rows) for rows in SHAPES.values()]
    assert {grid.shape for grid in outlines} == {(8, 8)}
    assert min((a != b).sum() for a, b in combinations(outlines, 2)) >= 8


def test_no_two_patterns_are_alike_and_none_is_empty():
    patterns = drawing._TEMPLATES
    assert patterns.shape == (len(drawing.PATTERNS) + 1, PATCH**2) and not patterns[0].any()
    assert min(abs(a - b).sum() for a, b in combinations(patterns, 2)) >= 4


def test_a_picture_by_hand():
    """A pillow leaves out an eighth of its square above and below."""
    pixels = drawing.draw(RED).astype(int)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[2:8, :8] = True
    for place, colour in ((inside, COLOURS["red"]), (~inside, drawing.CANVAS)):
        assert abs(pixels[place] - colour).max() <= drawing.NOISE
        assert np.allclose(pixels[place].mean(0), colour, atol=5)


@pytest.mark.parametrize(
    ("top", "rows"), [(1, "lower full none none"), (3, "none full upper none")]
)
def test_codes_by_hand(top, rows):
    """Of red, patterns 1, 2 and 3: all of a patch, its upper and its lower half."""
    first = [*COLOURS].index("red") * len(drawing.PATTERNS)
    code = {"none": 0, "full": first + 1, "upper": first + 2, "lower": first + 3}
    by_hand = [code[row] * there for row in rows.split() for there in (1, 1, 0, 0)]
    assert drawing.patches(drawing.draw(replace(RED, top=top))) == tuple(by_hand)


def test_patches_are_cut_row_by_row():
    pixel = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    cut = drawing._cut(pixel)
    for i in range(PATCHES):
        row, column = i // 4 * PATCH, i % 4 * PATCH
        assert (cut[i] == pixel[row : row + PATCH, column : column + PATCH].ravel()).all()


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_the_nearest_entry_is_the_one_that_brute_force_finds(points):
    palette = [drawing.CANVAS, *COLOURS.values()]
    far = [[sum((a - b) ** 2 for a, b in zip(p, c)) for c in palette] for p in points]
    found = drawing._nearest(np.array(points), np.array(palette))
    assert found.tolist() == [row.index(min(row)) for row in far]


@given(drawings())
def test_a_picture_is_the_same_each_time_and_fits_its_canvas(d):
    pixels = drawing.draw(d)
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint8
    assert (pixels == drawing.draw(d)).all()
    assert d.left + d.size <= SIDE and d.top + d.size <= SIDE
    codes = drawing.patches(pixels)
    assert len(codes) == PATCHES and all(0 <= c < drawing.CODES for c in codes) and any(codes)


@given(drawings())
def test_what_the_codes_keep_has_the_same_codes(d):
    codes = drawing.patches(drawing.draw(d))
    assert drawing.patches(drawing.reconstruct(codes)) == codes


def test_every_code_is_the_code_of_what_it_stands_for():
    for code in range(drawing.CODES):
        assert drawing.patches(drawing.reconstruct([code] * PATCHES)) == (code,) * PATCHES


def some(n, seed):
    """Pictures of any product in any colour."""
    rng = Random(seed)
    return [drawing.drawing(rng, rng.choice([*SHAPES]), rng.choice([*COLOURS])) for _ in range(n)]


def test_the_reconstruction_keeps_the_colour():
    right = []
    for d in some(600, 1):
        seen = drawing.reconstruct(drawing.patches(drawing.draw(d))).reshape(-1, 3).astype(float)
        mean = seen[(seen != drawing.CANVAS).any(1)].mean(0)
        right.append(min(COLOURS, key=lambda c: ((mean - COLOURS[c]) ** 2).sum()) == d.colour)
    assert np.mean(right) > 0.95


def test_the_reconstruction_keeps_most_of_the_outline():
    kept = []
    for d in some(300, 2):
        seen = drawing.reconstruct(drawing.patches(drawing.draw(d)))
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        place = inside[d.top : d.top + d.size, d.left : d.left + d.size]
        place[drawing._outline(d.product, d.size)] = True
        kept.append(((seen != drawing.CANVAS).any(-1) == inside).mean())
    assert np.mean(kept) > 0.8


@pytest.mark.parametrize("light", [min(drawing.LIGHT), 100, max(drawing.LIGHT)])
def test_an_empty_canvas_has_no_colour_in_any_light_and_noise(light):
    for grain in range(30):
        noise = np.random.default_rng(grain).integers(
            -drawing.NOISE, drawing.NOISE + 1, (16, 16, 3)
        )
        canvas = np.full((SIDE, SIDE, 3), drawing.CANVAS) * light // 100 + noise
        assert drawing.patches(canvas.astype(np.uint8)) == drawing.blank() == (0,) * PATCHES


def test_bad_input_is_told_with_its_remedy():
    with pytest.raises(ValueError, match=r"given shape \(12, 12, 3\); give \(16, 16, 3\)"):
        drawing.patches(np.zeros((12, 12, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="given 9 codes; give 16, one a patch"):
        drawing.reconstruct([0] * 9)
    with pytest.raises(ValueError, match="given the code 57; give codes of 0 to 56"):
        drawing.reconstruct([57] * 16)
