"""The book's figures: one style, colour-blind-safe, readable in light and in dark mode.

Every function returns a closed `matplotlib.figure.Figure`: the last line of a cell shows it
once. matplotlib is imported when a figure is drawn, so that importing `chatlib.lab` stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color universal design"; black last, yellow (faint on white) left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # besides the colours, for print and for any eye
WIDTH = 5.6  # inches; at 360 pixels a 10-point letter is still 9 pixels high

# column of a PPO run: title of its panel, in reading order
PPO_CURVES = {
    "score": "reward-model score",
    "gold": "gold reward",
    "kl": "KL to the SFT model (nats a sequence)",
    "entropy": "entropy (nats a token)",
    "answer_tokens": "answer length (tokens)",
    "ended": "share that ended",
    "clip_fraction": "share of ratios clipped",
    "explained_variance": "explained variance of the critic",
}

_STYLE: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "black",
    "axes.labelcolor": "black",
    "axes.edgecolor": "#444444",
    "xtick.color": "#222222",
    "ytick.color": "#222222",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the book's style and close the figure, so that a notebook shows it only once."""

    @wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Figure:
        import matplotlib.pyplot as plt
        from cycler import cycler

        with plt.rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
            figure = draw(*arguments, **options)
            figure.canvas.draw()  # lays the panels out while the style holds
        plt.close(figure)
        return figure

    return styled


def smoothed(values: Sequence[float], weight: float) -> np.ndarray:
    """Exponential mean, m_t = (w m_{t-1} + (1-w) x_t), with the start's bias taken out.

    ``weight`` w in [0, 1); 0 leaves the values as they are. A missing value (NaN) repeats
    the mean before it.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"`smooth` is {weight}; use 0 (not smoothed) up to, not including, 1")
    mean, mass, out = 0.0, 0.0, []
    for value in np.asarray(values, dtype=float):
        if np.isfinite(value):
            mean, mass = weight * mean + (1 - weight) * value, weight * mass + 1 - weight
        out.append(mean / mass if mass else np.nan)
    return np.asarray(out)


def _table(source: Any) -> pd.DataFrame:
    """The metrics of a Run, or the table itself."""
    return getattr(source, "metrics", source)


def _column(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Steps and values of one figure, rows without it left out."""
    if name not in table.columns:
        known = ", ".join(c for c in table.columns if c != "step")
        raise ValueError(f"no figure {name!r} was logged; use one of {known}")
    return table[["step", name]].dropna()


def _line(axes: Axes, table: pd.DataFrame, name: str, smooth: float, i: int, label: str) -> None:
    """One curve; when smoothed, the raw values stay visible as a faint line."""
    rows = _column(table, name)
    colour, style = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
    if smooth:
        axes.plot(rows["step"], rows[name], color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(rows["step"], smoothed(rows[name], smooth), style, color=colour, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def _panels(
    count: int, columns: int, height: float, layout: Any = None
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels in rows of ``columns``; ``height`` inches a row.

    ``layout`` is matplotlib's, the book's where not given.
    """
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    size = (WIDTH, height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


@_styled
def curves(source: Any, *columns: str, smooth: float = 0.0) -> Figure:
    """Logged figures of one run against the step, one panel each.

    ``source`` is a `Run` or a table with a ``step`` column; ``columns`` default to all that
    were logged; ``smooth`` is the weight of `smoothed`.
    """
    table = _table(source)
    names = columns or tuple(c for c in table.columns if c != "step")
    figure, panels = _panels(len(names), min(len(names), 2), 2.6 if len(names) > 1 else 3.2)
    for axes, name in zip(panels, names):
        _line(axes, table, name, smooth, 0, name)
        axes.set(xlabel="step", title=name)
    return figure


@_styled
def compare(
    sources: Mapping[str, Any], column: str, smooth: float = 0.0, ylabel: str = ""
) -> Figure:
    """The same figure of several runs in one panel; ``sources`` maps labels to runs or tables."""
    figure, (axes,) = _panels(1, 1, 3.2)
    for i, (label, source) in enumerate(sources.items()):
        _line(axes, _table(source), column, smooth, i, label)
    axes.set(xlabel="step", ylabel=ylabel or column)
    axes.legend()
    return figure


@_styled
def ppo_grid(source: Any, smooth: float = 0.0, names: Mapping[str, str] | None = None) -> Figure:
    """The eight curves to watch together; ``source`` is a run, or {label: run} to overlay.

    ``names`` maps the logged figures to panel titles (default `PPO_CURVES`).
    """
    sources = source if isinstance(source, Mapping) else {"": source}
    titles = names or PPO_CURVES
    figure, panels = _panels(len(titles), 2, 1.9)
    for axes, (name, title) in zip(panels, titles.items()):
        for i, (label, run) in enumerate(sources.items()):
            _line(axes, _table(run), name, smooth, i, label)
        axes.set_title(title, fontsize=9)
    for axes in panels[-2:]:
        axes.set_xlabel("iteration")
    if len(sources) > 1:
        panels[0].legend(fontsize=8)
    return figure


@_styled
def reliability(tables: Mapping[str, Mapping[str, Any]], xlabel: str = "predicted") -> Figure:
    """What happened against what was predicted; a calibrated model lies on the diagonal.

    ``tables`` maps labels to the columns of `chatlib.maths.preference.calibration_table`:
    ``count``, ``predicted``, ``observed``, each (bins,). The lower panel counts the pairs.
    """
    figure, (top, below) = _panels(2, 1, 2.4)
    top.plot([0, 1], [0, 1], ":", color="#777777", label="calibrated")
    for i, (label, table) in enumerate(tables.items()):
        count, predicted, observed = (
            np.asarray(table[k], dtype=float) for k in ("count", "predicted", "observed")
        )
        full, colour = count > 0, COLOURS[i % len(COLOURS)]
        style = LINES[i % len(LINES)]
        top.plot(predicted[full], observed[full], f"o{style}", color=colour, label=label)
        below.step(predicted[full], count[full], style, where="mid", color=colour)
    top.set(ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    top.legend()
    below.set(xlabel=xlabel, ylabel="pairs", xlim=(0, 1), ylim=(0, None))
    return figure


@_styled
def bars(
    table: pd.DataFrame, xlabel: str = "", reference: float | None = None, sort: bool = False
) -> Figure:
    """Horizontal bars with intervals: index the names, columns ``value`` and ``low``, ``high``.

    ``reference`` draws a line to compare with (.5 for a win rate).
    """
    rows = table.sort_values("value") if sort else table.iloc[::-1]
    figure, (axes,) = _panels(1, 1, max(1.6, 0.34 * len(rows) + 0.7))
    values = rows["value"].to_numpy(dtype=float)
    error = None
    if {"low", "high"} <= set(rows.columns):
        error = np.abs(rows[["low", "high"]].to_numpy(dtype=float).T - values)
    names = [str(name) for name in rows.index]
    axes.barh(names, values, xerr=error, color=COLOURS[0], ecolor="#444444", capsize=3, height=0.6)
    if reference is not None:
        axes.axvline(reference, color=COLOURS[1], linestyle="--", linewidth=1.2)
    axes.set_xlabel(xlabel)
    axes.grid(False, axis="y")
    return figure


@_styled
def histogram(samples: Mapping[str, Sequence[float]], xlabel: str = "", bins: int = 30) -> Figure:
    """Outlines of the distributions of several samples over common bins; shares, not counts."""
    figure, (axes,) = _panels(1, 1, 3.0)
    arrays = {label: np.asarray(values, dtype=float) for label, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins)
    for i, (label, values) in enumerate(arrays.items()):
        share = np.full(len(values), 1 / len(values))
        colour, style = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
        axes.hist(
            values, list(edges), weights=share, histtype="step", color=colour, linestyle=style
        )
        axes.plot([], [], style, color=colour, label=label)
    axes.set(xlabel=xlabel, ylabel="share")
    axes.legend()
    return figure


@_styled
def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    log: str = "",
) -> Figure:
    """Curves of y against x, marked at the points; ``series`` maps labels to (x, y).

    ``log`` names the logarithmic axes: "", "x", "y" or "xy"; along x the points are the ticks.
    """
    figure, (axes,) = _panels(1, 1, 3.2)
    for i, (label, (x, y)) in enumerate(series.items()):
        style, marker = LINES[i % len(LINES)], "os^Dv"[i % 5]
        axes.plot(x, y, style, marker=marker, markersize=4, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_yscale("log" if "y" in log else "linear")
    if "x" in log:
        axes.set_xscale("log")
        points = sorted({value for x, _ in series.values() for value in x})
        axes.set_xticks(points, [f"{value:g}" for value in points])
        axes.set_xticks([], minor=True)
    axes.legend()
    return figure


@_styled
def scatter(
    x: Sequence[float], y: Sequence[float], xlabel: str, ylabel: str, groups: Sequence | None = None
) -> Figure:
    """Points, one a sample, coloured and marked by group when ``groups`` names one each."""
    figure, (axes,) = _panels(1, 1, 3.4)
    names = [""] * len(x) if groups is None else [str(group) for group in groups]
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    for i, name in enumerate(sorted(set(names))):
        mine = np.array([n == name for n in names])
        marker = "o^sDvP*"[i % 7]
        axes.scatter(across[mine], up[mine], s=14, alpha=0.6, marker=marker, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if groups is not None:
        axes.legend()
    return figure


@_styled
def heatmap(
    values: Any,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A table of numbers, (rows, columns), as shades; ``limits`` fixes the ends of the scale."""
    table = np.asarray(values, dtype=float)
    height = min(WIDTH, 0.9 + max(0.22 * len(table), 1.6))
    figure, (axes,) = _panels(1, 1, height)
    low, high = limits or (None, None)
    image = axes.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.grid(False)
    if len(columns):
        axes.set_xticks(range(table.shape[1]), columns, rotation=90, fontsize=8)
    if len(rows):
        axes.set_yticks(range(table.shape[0]), rows, fontsize=8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@_styled
def pictures(images: Mapping[str, Any], columns: int = 6) -> Figure:
    """Small pictures (height, width, red-green-blue of 0 to 255), their captions above them."""
    # the book's layout never settles for pictures of a fixed shape
    figure, grid = _panels(len(images), columns, 1.1, layout="none")
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.88, wspace=0.2, hspace=0.4)
    for axes, (caption, image) in zip(grid, images.items()):
        axes.imshow(np.asarray(image), interpolation="nearest")
        axes.set_title(caption, fontsize=8)
        axes.set_axis_off()
    return figure


def attention_map(weights: Any, queries: Sequence[str], keys: Sequence[str]) -> Figure:
    """Attention weights (queries, keys), rows summing to 1, with the tokens on the axes."""
    return heatmap(weights, queries, keys, "key (attended to)", "query (attends)", (0.0, 1.0))


# (text, x, y, colour) of the boxes of a block, from bottom to top
_BLOCK = (
    ("tokens", 0.0, 0.0, 6),
    ("embedding", 0.0, 1.0, 6),
    ("norm", 1.2, 2.2, 6),
    ("attention\nQ, K, V, causal mask", 1.2, 3.3, 0),
    ("norm", 1.2, 5.4, 6),
    ("feed-forward", 1.2, 6.5, 1),
    ("norm, head", 0.0, 8.6, 6),
    ("next token", 0.0, 9.6, 6),
)


@_styled
def transformer_block() -> Figure:
    """One block between embedding and head: the residual stream and what adds to it."""
    figure, (axes,) = _panels(1, 1, 4.6)
    axes.set(xlim=(-0.7, 2.0), ylim=(-0.6, 10.1))
    axes.axis("off")
    arrow = {"arrowstyle": "->", "color": "#444444", "lw": 1.4}
    for low, high in ((0.3, 0.7), (1.3, 4.3), (4.7, 7.4), (7.8, 8.3), (8.9, 9.3)):
        axes.annotate("", (0, high), (0, low), arrowprops=arrow)
    for leave, box, half, back in ((1.6, 3.3, 0.45, 4.5), (4.8, 6.5, 0.25, 7.6)):
        turn = arrow | {"connectionstyle": "angle,angleA=0,angleB=90"}
        axes.annotate("", (1.2, leave + 0.35), (0, leave), arrowprops=turn)
        axes.annotate("", (1.2, box - half), (1.2, leave + 0.85), arrowprops=arrow)
        turn = arrow | {"connectionstyle": "angle,angleA=90,angleB=0"}
        axes.annotate("", (0.1, back), (1.2, box + half), arrowprops=turn)
        axes.text(
            0, back, "+", ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"}
        )
    for text, x, y, colour in _BLOCK:
        frame = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": COLOURS[colour]}
        axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=frame)
    axes.text(-0.12, 3.0, "residual stream", rotation=90, ha="right", va="center", fontsize=9)
    return figure


# page: (what it makes, x, y of its box); the pipeline runs from left to right
_PIPELINE = {
    "01": ("attention:\nwhat models are made of", 0.2, 0.0),
    "02": ("dialogues", 0.0, 1.15),
    "03": ("SFT model", 1.0, 1.15),
    "04": ("reward model", 1.0, 2.3),
    "05": ("PPO model", 2.0, 1.72),
    "06": ("evaluation", 3.0, 2.3),
    "07": ("fine-tuning\nfrom it", 3.0, 1.15),
    "08": ("assistant", 3.0, 0.0),
    "09": ("scaling out:\nwhat launches cost", 1.5, 0.0),
    "10": ("other ways", 2.0, 2.75),
    "11": ("museum:\nwhat goes wrong unseen", 0.2, -0.85),
    "12": ("the recipe on\na real model", 0.05, -1.75),
    "13": ("compression", 1.9, -0.85),
    "14": ("deploying", 3.0, -0.85),
    "15": ("what is hard", 1.05, -1.75),
    "16": ("where it\nis used", 2.0, -1.75),
    "17": ("where it\nis going", 3.0, -1.75),
}
_FLOW = (
    *("0203", "0204", "0304", "0305", "0405", "0506", "0607", "0708", "0508", "0410", "1006"),
    *("0813", "0814", "1314"),
)


@_styled
def pipeline(here: str = "", notes: Mapping[str, str] | None = None) -> Figure:
    """The book's chapters as a pipeline; ``here`` ("05") is lit, ``notes`` add a line to boxes."""
    figure, (axes,) = _panels(1, 1, 3.9)
    axes.set(xlim=(-0.45, 3.45), ylim=(-2.15, 3.1))
    axes.axis("off")
    boxes = {}
    for page, (text, x, y) in _PIPELINE.items():
        lit = page == here
        frame = {"boxstyle": "round,pad=0.35", "fc": COLOURS[0] if lit else "white"}
        frame |= {"ec": COLOURS[0] if lit else "#666666"}
        label = "\n".join([f"{page} {text}", *filter(None, [(notes or {}).get(page)])])
        ink = "white" if lit else "black"
        middle: Any = {"ha": "center", "va": "center", "fontsize": 8}
        boxes[page] = axes.text(x, y, label, color=ink, bbox=frame, **middle)
    for pair in _FLOW:
        leave, reach = boxes[pair[:2]], boxes[pair[2:]]
        ends = {"patchA": leave.get_bbox_patch(), "patchB": reach.get_bbox_patch()}
        arrow = {"arrowstyle": "->", "color": "#666666", "lw": 1.2, "shrinkA": 1, "shrinkB": 1}
        where = (reach.get_position(), leave.get_position())
        axes.annotate("", *where, arrowprops=arrow | ends)
    return figure


@_styled
def trails(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]],
    xlabel: str,
) -> Figure:
    """Several curves of one colour: ``panels`` maps titles to {label: [(x, y), ...]}.

    A label has the same colour and line in every panel; a curve of few points is marked at them.
    """
    labels = list(dict.fromkeys(label for curves_of in panels.values() for label in curves_of))
    figure, axes_of = _panels(len(panels), min(len(panels), 2), 3.2)
    for axes, (title, curves_of) in zip(axes_of, panels.items()):
        for label, bundle in curves_of.items():
            i = labels.index(label)
            look: Any = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
            for k, (x, y) in enumerate(bundle):
                look |= {"label": label if k == 0 else None, "marker": "o" if len(x) < 12 else ""}
                axes.plot(x, y, linewidth=1.3, markersize=4, **look)
        axes.set(xlabel=xlabel, title=title)
    shown = {line.get_label(): line for axes in axes_of[::-1] for line in axes.lines}
    handles = [shown[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


@_styled
def below(
    limits: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """What is possible as black lines, {label: (x, y)}, and what was reached as coloured marks."""
    figure, (axes,) = _panels(1, 1, 3.8)
    for i, (label, (x, y)) in enumerate(limits.items()):
        axes.plot(x, y, LINES[i % len(LINES)], color="black", linewidth=1.3, label=label)
    for i, (label, (x, y)) in enumerate(points.items()):
        look: Any = {"color": COLOURS[i % len(COLOURS)], "s": 22, "label": label}
        axes.scatter(x, y, marker="os^Dv"[i % 5], **look)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


@_styled
def bands(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], pd.DataFrame]]], xlabel: str
) -> Figure:
    """Curves with their intervals as bands, one panel a quantity: {title: {label: (x, table)}}.

    A table has the columns ``value`` and, for a band, ``low`` and ``high``; its rows follow x.
    """
    figure, axes_of = _panels(len(panels), 1, 3.2 if len(panels) == 1 else 2.6)
    for axes, (title, series) in zip(axes_of, panels.items()):
        for i, (label, (x, table)) in enumerate(series.items()):
            look: Any = {"color": COLOURS[i % len(COLOURS)]}
            if {"low", "high"} <= set(table.columns):
                axes.fill_between(list(x), table["low"], table["high"], alpha=0.15, **look)
            marks: Any = {"marker": "os^Dv"[i % 5], "markersize": 4, "label": label}
            axes.plot(list(x), table["value"], LINES[i % len(LINES)], **marks, **look)
        axes.set(ylabel=title)
    axes_of[-1].set_xlabel(xlabel)
    axes_of[0].legend()
    return figure


@_styled
def noted_curve(
    x: Sequence[float], y: Sequence[float], notes: Sequence[str], xlabel: str, ylabel: str
) -> Figure:
    """One curve with a note beside each of its points, such as the setting that led there."""
    figure, (axes,) = _panels(1, 1, 3.2)
    axes.plot(x, y, "-o", markersize=4)
    for across, up, note in zip(x, y, notes, strict=True):
        place: Any = {"textcoords": "offset points", "xytext": (5, -12), "fontsize": 8}
        axes.annotate(note, (across, up), **place)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0.14, y=0.14)
    return figure


@_styled
def seed_bands(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], xlabel: str = "iteration"
) -> Figure:
    """Curves of several seeds: their mean as a line, lowest and highest as a band around it.

    ``panels`` maps a panel's title to {label: (seeds, steps)}.
    """
    figure, axes_of = _panels(len(panels), 2, 2.2)
    for axes, (title, curves_of) in zip(axes_of, panels.items()):
        for i, (label, seeds) in enumerate(curves_of.items()):
            table = np.asarray(seeds, dtype=float)
            steps = np.arange(1, table.shape[1] + 1)
            colour, style = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
            axes.fill_between(steps, table.min(0), table.max(0), color=colour, alpha=0.2, lw=0)
            axes.plot(steps, table.mean(0), style, color=colour, label=label)
        axes.set_title(title, fontsize=9)
    for axes in axes_of[-2:]:
        axes.set_xlabel(xlabel)
    axes_of[0].legend(fontsize=8)
    return figure


@_styled
def patients(
    healthy: Mapping[str, Sequence[Sequence[float]]],
    sick: Mapping[str, Mapping[str, Sequence[float]]],
) -> Figure:
    """One row a run, one column a quantity: its curve in colour on the grey band of healthy runs.

    ``healthy`` maps a column's title to (seeds, points), ``sick`` a row's label to {title: points}.
    """
    figure, axes_of = _panels(len(sick) * len(healthy), len(healthy), 1.15)
    for i, (label, curves_of) in enumerate(sick.items()):
        row = axes_of[i * len(healthy) : (i + 1) * len(healthy)]
        for axes, (title, seeds) in zip(row, healthy.items()):
            table, own = np.asarray(seeds, dtype=float), np.asarray(curves_of[title], dtype=float)
            way = np.linspace(0, 100, table.shape[1])
            axes.fill_between(way, table.min(0), table.max(0), color="#999999", alpha=0.55, lw=0)
            axes.plot(np.linspace(0, 100, len(own)), own, color=COLOURS[1], linewidth=1.3)
            axes.tick_params(labelsize=6)
            axes.set_title(title if i == 0 else "", fontsize=7)
            axes.set_xlabel("% of the run" if i == len(sick) - 1 else "", fontsize=7)
        row[0].set_ylabel(label, rotation=0, fontsize=10, fontweight="bold", labelpad=10)
    return figure


@_styled
def along_tokens(
    tokens: Sequence[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float] | None]],
    ylabel: str = "",
) -> Figure:
    """Curves over the tokens of an answer; ``series`` maps labels to (values, half-widths or None).

    A half-width is that of an interval, drawn as an error bar.
    """
    figure, (axes,) = _panels(1, 1, 3.4)
    for i, (label, (values, half)) in enumerate(series.items()):
        style, marker = LINES[i % len(LINES)], "os^Dv"[i % 5]
        whole: Any = {"marker": marker, "markersize": 4, "label": label, "linestyle": style}
        axes.errorbar(range(len(tokens)), values, half, capsize=2, elinewidth=0.8, **whole)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
    axes.set(ylabel=ylabel)
    axes.legend(fontsize=8)
    return figure


@_styled
def levels(
    sources: Mapping[str, Any],
    column: str,
    floors: Mapping[str, float],
    smooth: float = 0.0,
    ylabel: str = "",
) -> Figure:
    """One figure of several runs on a logarithmic axis, and levels to compare it with.

    ``sources`` maps labels to runs or tables, ``floors`` labels to heights; ``smooth`` as in
    `curves`.
    """
    figure, (axes,) = _panels(1, 1, 3.2)
    for i, (label, source) in enumerate(sources.items()):
        _line(axes, _table(source), column, smooth, i, label)
    for i, (label, height) in enumerate(floors.items()):
        style = LINES[(i + 1) % len(LINES)]
        axes.axhline(height, color=COLOURS[-1], linestyle=style, linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel=ylabel or column, yscale="log")
    axes.legend()
    return figure


@_styled
def plane(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str
) -> Figure:
    """Two gains of each of several models as crosses, with lines at 0 and where both are equal.

    ``points`` maps labels to two intervals, each (value, low, high, ...), across and up.
    """
    figure, (axes,) = _panels(1, 1, 4.2)
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.axvline(0, color="#777777", linewidth=0.8)
    axes.axline((0, 0), slope=1, color="#777777", linestyle=":", label="the same gain on both")
    for i, (label, ends) in enumerate(points.items()):
        (x, *across), (y, *up) = (np.asarray(end[:3], dtype=float) for end in ends)
        xerr, yerr = (np.abs(np.array(r) - v)[:, None] for r, v in ((across, x), (up, y)))
        look: Any = {"fmt": "os^DvPX"[i % 7], "color": COLOURS[i % len(COLOURS)], "capsize": 3}
        axes.errorbar([x], [y], yerr, xerr, markersize=5, label=label, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8)
    return figure


_LINE = 78  # characters of 8-point type that fit the width of a figure


def _places(tokens: Sequence[str], width: int = _LINE) -> list[tuple[int, int]]:
    """(line, first column) of each token, broken into lines like words in a text."""
    places, line, column = [], 0, 0
    for token in tokens:
        if column and column + len(token) + 1 > width:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(token) + 2
    return places


@_styled
def token_strip(tokens: Sequence[str], kinds: Sequence[str], trained: Sequence[int]) -> Figure:
    """One row of token ids as coloured boxes, broken into lines like text.

    ``kinds`` (of each token: whose turn, or padding) chooses the colour of a box; where
    ``trained`` is 1 the box is filled, where it is 0 (the loss is masked) only its frame is drawn.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    places, names = _places(tokens), list(dict.fromkeys(kinds))
    lines = places[-1][0] + 1
    figure, (axes,) = _panels(1, 1, 0.27 * lines + 0.55)
    axes.set(xlim=(-1, _LINE + 1), ylim=(lines - 0.4, -0.6))
    axes.axis("off")
    for token, kind, solid, (line, column) in zip(tokens, kinds, trained, places):
        colour = COLOURS[names.index(kind) % len(COLOURS)]
        fill = to_rgba(colour, 0.4 if solid else 0.0)
        frame = {"boxstyle": "round,pad=0.2", "ec": colour, "fc": fill}
        ink: Any = {"family": "monospace", "fontsize": 8, "parse_math": False}
        axes.text(column, line, token, va="center", bbox=frame, **ink)
    keys = [Patch(fc="white", ec=COLOURS[i % len(COLOURS)], label=n) for i, n in enumerate(names)]
    keys.append(Patch(fc="#aaaaaa", ec="#666666", label="filled: trained on"))
    axes.legend(handles=keys, loc="lower center", ncols=5, fontsize=8, bbox_to_anchor=(0.5, 1))
    return figure


@_styled
def stacked(table: pd.DataFrame, xlabel: str = "") -> Figure:
    """One horizontal bar a row, from the top, put together of the columns' parts in their order."""
    figure, (axes,) = _panels(1, 1, 0.5 * len(table) + 1.1)
    names, left = [str(name) for name in table.index], np.zeros(len(table))
    for i, column in enumerate(table.columns):
        width = table[column].to_numpy(dtype=float)
        axes.barh(names, width, left=left, height=0.6, color=COLOURS[i % 7], label=str(column))
        left = left + width
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.grid(False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, fontsize=8)
    return figure


@_styled
def with_intervals(
    series: Mapping[str, pd.DataFrame], xlabel: str, ylabel: str, log: bool = False
) -> Figure:
    """Curves with intervals: index x, columns ``value``, ``low``, ``high``; of one row, a point."""
    figure, (axes,) = _panels(1, 1, 3.2)
    for i, (label, rows) in enumerate(series.items()):
        x, value = rows.index.to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)
        error = np.abs(rows[["low", "high"]].to_numpy(dtype=float).T - value)
        look: Any = {"marker": "os^Dv"[i % 5], "markersize": 4, "capsize": 2, "elinewidth": 0.9}
        axes.errorbar(x, value, error, linestyle=LINES[i % len(LINES)], label=label, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xscale("log" if log else "linear")
    axes.legend()
    return figure


@_styled
def forest(series: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """Several estimates of the same quantities: index the names, ``value``, ``low``, ``high``.

    A table without ``low`` is drawn as points; names that a table lacks stay empty.
    """
    names = list(dict.fromkeys(name for table in series.values() for name in table.index))
    figure, (axes,) = _panels(1, 1, 0.42 * len(names) + 1.1)
    for i, (label, table) in enumerate(series.items()):
        height = [names.index(name) + 0.2 * i - 0.1 * (len(series) - 1) for name in table.index]
        value = table["value"].to_numpy(dtype=float)
        error = np.zeros((2, len(value)))
        if "low" in table:
            error = np.abs(table[["low", "high"]].to_numpy(dtype=float).T - value)
        look: Any = {"fmt": "os^Dv"[i % 5], "markersize": 5, "capsize": 2}
        axes.errorbar(value, height, xerr=error, label=label, **look)
    axes.axvline(0.0, color="#777777", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@_styled
def over_words(words: Sequence[str], series: Mapping[str, Sequence[float]], ylabel: str) -> Figure:
    """One number a word, the words along the axis; NaN where a series has not the word."""
    figure, (axes,) = _panels(1, 1, 3.2)
    for i, (label, values) in enumerate(series.items()):
        style, marker = LINES[i % len(LINES)], "os^Dv"[i % 5]
        there = np.flatnonzero(np.isfinite(np.asarray(values, dtype=float)))
        axes.plot(there, np.asarray(values)[there], style, marker=marker, markersize=3, label=label)
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
    axes.set(ylabel=ylabel)
    axes.legend()
    return figure
