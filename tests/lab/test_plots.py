import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from chatlib.lab import plots

STEPS = np.arange(1, 21)
METRICS = pd.DataFrame(
    {"step": STEPS, "loss": 3 / STEPS, "accuracy": [*[np.nan] * 10, *[0.7] * 10]}
)
PPO = pd.DataFrame({"step": STEPS} | dict.fromkeys(plots.PPO_CURVES, STEPS / 20))
TABLE = {"count": [4, 0, 6], "predicted": [0.2, 0.0, 0.8], "observed": [0.25, 0.0, 0.9]}
INTERVALS = pd.DataFrame(
    {"value": [0.7, 0.4], "low": [0.6, 0.3], "high": [0.75, 0.6]}, index=["refund", "hours"]
)

NUMBERED = INTERVALS.set_axis([1, 4])

FIGURES = {
    "curves": lambda: plots.curves(METRICS, smooth=0.5),
    "compare": lambda: plots.compare({"a": METRICS, "b": METRICS}, "loss"),
    "ppo_grid": lambda: plots.ppo_grid({"weak": PPO, "control": PPO}, smooth=0.8),
    "reliability": lambda: plots.reliability({"reward model": TABLE}),
    "bars": lambda: plots.bars(INTERVALS, "win rate", reference=0.5),
    "histogram": lambda: plots.histogram({"a": STEPS, "b": STEPS + 3}, "tokens"),
    "scatter": lambda: plots.scatter(STEPS, STEPS, "x", "y", groups=["a", "b"] * 10),
    "heatmap": lambda: plots.heatmap(np.eye(3), "abc", "xyz"),
    "pictures": lambda: plots.pictures({"a": np.zeros((4, 4, 3), np.uint8), "b": np.eye(4)}),
    "attention": lambda: plots.attention_map(np.eye(3), "abc", "xyz"),
    "with_intervals": lambda: plots.with_intervals({"a": NUMBERED, "b": NUMBERED[:1]}, "x", "y"),
    "forest": lambda: plots.forest({"a": INTERVALS, "b": INTERVALS[["value"]][:1]}, "points"),
    "over_words": lambda: plots.over_words("abc", {"a": [1, 2, 3], "b": [1, np.nan, 2]}, "y"),
    "stacked": lambda: plots.stacked(INTERVALS, "nats"),
    "token_strip": lambda: plots.token_strip(["<|user|>", "$5", "?"], ["user"] * 3, [0, 1, 1]),
    "plane": lambda: plots.plane({"a": ((0.3, 0.1, 0.4, 9), (-1, -1.2, -0.7, 9))}, "x", "y"),
    "below": lambda: plots.below({"most": (STEPS, STEPS)}, {"a": ([1, 2], [0, 1])}, "x", "y"),
    "patients": lambda: plots.patients({"kl": [STEPS, STEPS + 1]}, {"A": {"kl": STEPS * 2}}),
    "trails": lambda: plots.trails({"gold": {"a": [(STEPS, STEPS), (STEPS, -STEPS)]}}, "d"),
}


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_deterministic_opaque_and_closed(name):
    import matplotlib.pyplot as plt

    figure = FIGURES[name]()
    assert plt.get_fignums() == []  # a cell would show an open figure a second time
    image = plt.imread(io.BytesIO(png(figure)))
    assert (image[..., 3] == 1).all() and (image[0, 0, :3] == 1).all()  # readable in dark mode
    assert png(figure) == png(FIGURES[name]())


def test_the_style_does_not_leak_into_the_reader_s_own_figures():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.curves(METRICS, "loss")
    assert dict(mpl.rcParams) == before


def test_importing_the_module_imports_no_matplotlib_and_no_torch():
    code = (
        "import sys, chatlib.lab.plots; "
        "print([m for m in ('matplotlib', 'torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_smoothing_by_hand():
    """weight 1/2 on 1, 3: the mean starts at 1, then (1/4 * 1 + 1/2 * 3) / (3/4) = 7/3."""
    assert plots.smoothed([1, 3], 0.5) == pytest.approx([1, 7 / 3])
    assert plots.smoothed([1, 3], 0).tolist() == [1, 3]
    assert plots.smoothed([5.0] * 9, 0.9) == pytest.approx([5.0] * 9)  # no bias at the start
    assert plots.smoothed([1, np.nan, 3], 0.5) == pytest.approx([1, 1, 7 / 3])


def test_curves_draw_what_was_logged():
    figure = plots.curves(METRICS, "accuracy")
    (line,) = figure.axes[0].get_lines()
    assert line.get_xdata().tolist() == list(range(11, 21))  # steps without the figure: no point
    assert figure.axes[0].get_title() == "accuracy"


def test_a_run_is_read_through_its_metrics():
    class Run:
        metrics = METRICS

    assert png(plots.curves(Run(), "loss")) == png(plots.curves(METRICS, "loss"))


def test_bars_keep_the_order_of_the_table_from_the_top():
    labels = [t.get_text() for t in plots.bars(INTERVALS).axes[0].get_yticklabels()]
    assert labels == ["hours", "refund"]  # drawn from the bottom


def test_eight_curves():
    assert len(plots.ppo_grid(PPO).axes) == len(plots.PPO_CURVES) == 8


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plots.curves(METRICS, "los"), "no figure 'los' was logged; use one of loss, acc"),
        (lambda: plots.smoothed([1], 1.0), "`smooth` is 1.0; use 0"),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lines_keep_their_points_and_logarithmic_axes():
    figure = plots.lines({"a": ([1, 10], [2, 20]), "b": ([1, 10], [3, 3])}, "T", "seconds", "x")
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[2, 20], [3, 3]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_trails_of_one_label_share_a_colour_in_every_panel_and_one_line_of_the_legend():
    seeds, other = [([0, 1], [2, 3]), ([0, 1], [4, 5])], [([0, 1], [1, 1])]
    figure = plots.trails({"score": {"a": seeds}, "gold": {"b": other, "a": seeds}}, "d")
    score, gold = figure.axes
    assert len({line.get_color() for line in score.lines}) == 1
    assert gold.lines[1].get_color() == score.lines[0].get_color() != gold.lines[0].get_color()
    assert gold.lines[2].get_ydata().tolist() == [4, 5]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_bands_span_their_intervals_and_a_table_without_any_has_no_band():
    series = {"with": ([0, 5], INTERVALS), "without": ([0, 5], INTERVALS[["value"]])}
    (upper, lower) = plots.bands({"gold": series, "again": series}, "tokens").axes
    (band,) = upper.collections
    box = band.get_paths()[0].get_extents()
    assert (box.ymin, box.ymax) == (INTERVALS["low"].min(), INTERVALS["high"].max())
    assert [line.get_xdata().tolist() for line in upper.lines] == [[0, 5], [0, 5]]
    assert (upper.get_ylabel(), lower.get_xlabel()) == ("gold", "tokens")


def test_a_noted_curve_writes_every_note_beside_its_point():
    (axes,) = plots.noted_curve([0, 1, 2], [5, 7, 8], ["4", "2", "1"], "nats", "score").axes
    assert [(t.get_text(), t.xy) for t in axes.texts] == [
        ("4", (0, 5)),
        ("2", (1, 7)),
        ("1", (2, 8)),
    ]
    with pytest.raises(ValueError, match="zip"):
        plots.noted_curve([0, 1], [5, 7], ["4"], "nats", "score")


def test_a_band_reaches_from_the_lowest_to_the_highest_seed_around_their_mean():
    seeds = [[0.0, 1.0, 5.0], [2.0, 1.0, 1.0]]
    first, second = plots.seed_bands({"gold": {"ours": seeds}, "kl": {"ours": seeds}}).axes
    (line,), (band,) = first.lines, first.collections
    assert line.get_xydata().tolist() == [[1, 1], [2, 1], [3, 3]]
    edge = band.get_paths()[0].vertices[:, 1]
    assert edge.min() == 0 and edge.max() == 5
    assert [first.get_title(), second.get_title()] == ["gold", "kl"]


def test_curves_along_tokens_have_the_tokens_as_ticks_and_bars_where_given():
    series = {"truth": ([1.0, 2.0], [0.1, 0.2]), "guess": ([1.0, 1.5], None)}
    (axes,) = plots.along_tokens(["Hello", "Elena"], series, "score").axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["Hello", "Elena"]
    bars = [segment[:, 1].tolist() for c in axes.collections for segment in c.get_segments()]
    assert bars == [pytest.approx([0.9, 1.1]), pytest.approx([1.8, 2.2])]
    assert len(axes.containers) == 2


def test_levels_draw_a_floor_on_a_logarithmic_axis():
    figure = plots.levels({"run": METRICS}, "loss", {"entropy": 0.25}, smooth=0.5)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.lines[-1].get_ydata()[0] == 0.25
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["run", "entropy"]


def test_a_cross_of_the_plane_spans_both_intervals_and_across_is_the_first():
    figure = plots.plane({"bold": ((0.3, 0.1, 0.4, 90), (-1.0, -1.2, -0.7, 90))}, "weak", "others")
    (cross,) = figure.axes[0].containers
    ends = [bar.get_segments()[0].tolist() for bar in cross.lines[2]]
    assert np.allclose(ends, [[[0.1, -1.0], [0.4, -1.0]], [[0.3, -1.2], [0.3, -0.7]]])


def test_a_token_strip_fills_what_is_trained_on_and_colours_turns():
    figure = plots.token_strip(["a", "b", "c"], ["user", "assistant", "assistant"], [0, 0, 1])
    (axes,) = figure.axes
    boxes = {text.get_text(): text.get_bbox_patch() for text in axes.texts}
    filled = {name: box.get_facecolor()[3] > 0 for name, box in boxes.items()}
    assert filled == {"a": False, "b": False, "c": True}
    assert boxes["b"].get_edgecolor() == boxes["c"].get_edgecolor() != boxes["a"].get_edgecolor()
    keys = [text.get_text() for text in axes.get_legend().get_texts()]
    assert keys == ["user", "assistant", "filled: trained on"]


def test_a_token_strip_breaks_lines_so_that_no_two_boxes_overlap():
    tokens = ["x" * (1 + i % 9) for i in range(60)]
    places = plots._places(tokens, 40)
    assert max(column + len(token) for token, (_, column) in zip(tokens, places)) <= 40
    for (line, column), token, after in zip(places, tokens, places[1:]):
        assert after == (line + 1, 0) or (after[0] == line and after[1] > column + len(token))


def test_stacked_parts_begin_where_the_ones_before_them_end():
    axes = plots.stacked(pd.DataFrame({"a": [1, 2], "b": [3, 0]}, index=["x", "y"])).axes[0]
    edges = [[(bar.get_x(), bar.get_width()) for bar in part] for part in axes.containers]
    assert edges == [[(0, 1), (0, 2)], [(1, 3), (2, 0)]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["x", "y"] and axes.yaxis_inverted()


NUMBERED = INTERVALS.set_axis([1, 4])
