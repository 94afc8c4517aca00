"""The README's result: a table and a picture made from `_build/results.json`, never typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlib.book import pages
from chatlib.lab import results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

README = pages.ROOT / "README.md"
PICTURE = pages.NOTEBOOKS / "static" / "result.svg"
BEGIN, END = "<!-- results: made by `make readme` -->", "<!-- /results -->"
SHOWN = (
    "![Gold reward before and after PPO, for each seed and by component]"
    f"({PICTURE.relative_to(pages.ROOT)})"
)
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito's, told apart by everyone


def update(source: Path = pages.BUILD / "results.json") -> None:
    """Rewrite the README's table and its picture. Raises `ValueError` when nothing was measured."""
    figures = results.read(source)
    if not figures:
        raise ValueError(f"{source} holds no figures; run `make book` and `make results` first")
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md has no {BEGIN!r} ... {END!r}; put the two lines back")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    README.write_text(
        f"{before}{BEGIN}\n{dialogue(figures)}{SHOWN}\n\n{table(figures)}\n{END}{after}",
        encoding="utf-8",
    )
    picture(figures, PICTURE)


def dialogue(figures: dict) -> str:
    """One prompt and what three models say to it, as the front page found them; else nothing."""
    said = at(figures, "front.dialogue")
    return f"```text\n{said}\n```\n\n" if said else ""


def table(figures: dict) -> str:
    """The figures that exist as a Markdown table, with where they were measured below it."""
    lines = ["| | measured | threshold |", "|---|---|---|"]
    for label, key, show, asked in ROWS:
        value = at(figures, key)
        if value is not None:
            lines.append(f"| {label} | {show(value)} | {asked} |")
    return "\n".join([*lines, "", _origin(figures)])


def at(figures: dict, key: str) -> Any:
    """The figure at a dotted key; None when it was not measured. ``a[].b`` is the list of b's."""
    here: Any = figures  # what JSON can hold
    for part in key.split("."):
        name = part.removesuffix("[]")
        if isinstance(here, list):
            here = [item.get(name) for item in here]
        else:
            here = here.get(name) if isinstance(here, dict) else None
        if here is None or here == [] or (isinstance(here, list) and None in here):
            return None
    return here


def _share(value: float) -> str:
    return f"{value:.2f}"


def _change(value: float) -> str:
    return f"{value:+.2f}"


def _seconds(value: float) -> str:
    return f"{value:.0f} s"


def _minutes(value: float) -> str:
    return f"{value / 60:.1f} min"


def _each(show: Callable[[float], str]) -> Callable[[list[float]], str]:
    return lambda values: ", ".join(show(value) for value in values)


def _gains(seeds: list[dict]) -> str:
    return ", ".join(_change(seed["gold_after"] - seed["gold_before"]) for seed in seeds)


ROWS: list[tuple[str, str, Callable, str]] = [
    ("SFT: well-formed answers, new prompts", "sft.well_formed", _share, "0.95"),
    ("SFT: stated numbers that the prompt contains", "sft.grounded", _share, "0.85"),
    (
        "reward model: way from chance to the Bayes ceiling",
        "reward.chance_to_bayes",
        _share,
        "0.75",
    ),
    ("PPO: gain in gold reward, by seed", "ppo.seeds", _gains, "+1.0 each"),
    (
        "PPO: wins against SFT, lower end of the 95 % interval, by seed",
        "ppo.seeds[].win_low",
        _each(_share),
        "0.68 each",
    ),
    ("PPO: well-formed answers, by seed", "ppo.seeds[].well_formed", _each(_share), "0.95 each"),
    (
        "over-optimised on purpose: reward-model score",
        "overoptimisation.reward_change",
        _change,
        "+1.2",
    ),
    (
        "over-optimised on purpose: gold reward, from its peak to the end",
        "overoptimisation.early_stopping.weak, fast.fall.value",
        _change,
        "-1.0",
    ),
    (
        "its control (same, but with a KL penalty): gold reward",
        "overoptimisation.control_gold_change",
        _change,
        "above 0",
    ),
    ("SFT, wall time with launch", "sft.seconds", _seconds, "at most 120 s"),
    ("reward model, wall time with launch", "reward.seconds", _seconds, "at most 60 s"),
    ("PPO, wall time with launch", "ppo.seconds", _seconds, "at most 180 s"),
    ("the whole book, executed from nothing", "book.seconds", _minutes, "at most 15 min"),
]


def _origin(figures: dict) -> str:
    """One sentence on the machine, the versions and the commit."""
    of = figures.get("provenance", {})
    known = of.get("book") or of.get("results")
    if not known:
        return "Origin of these figures not recorded."
    versions = known["versions"]
    return (
        f"Measured on {known['cores']} cores of {known['cpu']} with torch {versions['torch']}, "
        f"deepspeed {versions['deepspeed']} and transformers {versions['transformers']}, "
        f"at commit {known['commit'][:9]}."
    )


def picture(figures: dict, path: Path) -> None:
    """Gold reward before and after PPO for every seed, and by component, as an SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seeds = at(figures, "ppo.seeds") or []
    before, after = (at(figures, f"ppo.components.{when}") or {} for when in ("before", "after"))
    with pyplot.rc_context(
        {
            "svg.hashsalt": "chatlib",
            "svg.fonttype": "path",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        panels = 2 if after else 1
        figure, axes = pyplot.subplots(
            1, panels, figsize=(4 * panels, 2.8), layout="constrained", squeeze=False
        )
        _seeds(axes[0][0], seeds)
        if after:
            _parts(axes[0][1], before, after)
        if seeds:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        pyplot.close(figure)


def _seeds(axes: Axes, seeds: list[dict]) -> None:
    """One arrow a seed, from the SFT model's gold reward to the PPO model's."""
    for number, seed in enumerate(seeds):
        before, after = seed["gold_before"], seed["gold_after"]
        axes.annotate("", (after, number), (before, number), arrowprops={"arrowstyle": "->"})
        axes.plot(before, number, "o", color=ORANGE, label="after SFT" if not number else None)
        axes.plot(after, number, "s", color=BLUE, label="after PPO" if not number else None)
    axes.set(title="Gold reward, new prompts", yticks=range(len(seeds)), xlabel="of at most 4")
    axes.set_yticklabels([f"seed {seed.get('seed', i)}" for i, seed in enumerate(seeds)])
    axes.margins(y=0.3)
    axes.invert_yaxis()


def _parts(axes: Axes, before: dict, after: dict) -> None:
    """The components of the gold reward, before and after, as paired bars."""
    names = list(after)
    rows = range(len(names))
    axes.barh([r - 0.2 for r in rows], [before.get(n, 0) for n in names], 0.4, color=ORANGE)
    axes.barh([r + 0.2 for r in rows], [after[n] for n in names], 0.4, color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(title="What improved", yticks=rows, xlabel="points")
    axes.set_yticklabels(names)
    axes.invert_yaxis()
