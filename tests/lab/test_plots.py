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
    "attention": lambda: plots.attention_map(np.eye(3), "abc", "xyz"),
    "with_intervals": lambda: plots.with_intervals({"a": NUMBERED, "b": NUMBERED[:1]}, "x", "y"),
    "forest": lambda: plots.forest({"a": INTERVALS, "b": INTERVALS[["value"]][:1]}, "points"),
    "over_words": lambda: plots.over_words("abc", {"a": [1, 2, 3], "b": [1, np.nan, 2]}, "y"),
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
