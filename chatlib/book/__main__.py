"""``python -m chatlib.book COMMAND``: what the Makefile calls to make the book."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from chatlib.book import execute, pages, readme, render
from chatlib.lab import results, stored_results
from chatlib.runs.provenance import origin

RESULTS = pages.BUILD / "results.json"


def book(names: list[str]) -> None:
    """execute copies of all notebooks from nothing, gather figures, render the book"""
    gather(execute.book(names=names), pages.BUILD / "book")
    if not names:
        own_assistants(pages.BUILD / "book")
    index = render.render(pages.BUILD / "book" / "notebooks", strict=False)
    print(f"book     {_near(index)}")


def own_assistants(folder: Path) -> None:
    """Let the models that this build trained answer in its pages, where a page can hold them."""
    from chatlib.book import assistants

    os.environ |= {**execute.environment(), "CHATLIB_RUNS": str(folder / "runs")}
    try:
        print(assistants.make(folder / "notebooks" / "static"))
    except ValueError as error:  # of other models, too large for a page: the stored ones stay
        print(f"assistants as stored: {error}")


def assistants(names: list[str]) -> None:
    """write weights and recorded answers of the finished runs into notebooks/static"""
    from chatlib.book import assistants as answering

    os.environ |= execute.environment()
    print(answering.make())


def refresh(names: list[str]) -> None:
    """execute the tracked notebooks in place, store their outputs normalised, gather figures"""
    gather(execute.refresh(names), pages.BUILD / "refresh")
    print("outputs  see `git diff --stat notebooks`")


def gather(seconds: dict[str, float], folder: Path) -> None:
    """Add what the executed pages recorded to the figures, with seconds and provenance."""
    total = round(sum(seconds.values()), 1)
    own: dict[str, dict[str, object]] = {
        "book": {"pages": seconds},
        "provenance": {"book": origin()},
    }
    if set(seconds) >= {path.stem for path in pages.notebooks()}:  # of the whole book only
        own["book"]["seconds"] = total
    kept = {found.name: found.figures for found in stored_results.everything()}
    figures = results.merge(results.read(folder / "results.json"), own)
    results.write(RESULTS, results.merge(results.merge(results.read(RESULTS), kept), figures))
    print(f"\n{len(seconds)} notebooks executed in {total:.0f} s\nfigures  {_near(RESULTS)}")


def render_stored(names: list[str]) -> None:
    """render the book from the outputs stored in the tracked notebooks"""
    print(f"book     {_near(render.render())}")


def experiment(names: list[str]) -> None:
    """train and evaluate with several seeds and keep the figures in notebooks/results"""
    from chatlib.book import experiments  # brings torch, which the other commands do not need

    for name in names or experiments.NAMES:
        experiments.make(name)
        print(f"figures  notebooks/results/{name}.json")


def confirm(names: list[str]) -> None:
    """ask whether the training code of $BASE (HEAD) and of today give the same digits"""
    from chatlib.book import experiments

    changed = [found.name for found in stored_results.everything() if found.changed]
    for name in names or changed:
        experiments.confirm(name, os.environ.get("BASE") or "HEAD")
        print(f"confirmed  notebooks/results/{name}.json")
    if not names + changed:
        print("all stored results are of the code that trains today: nothing to confirm")


def stale(names: list[str]) -> None:
    """list the stored figures and assistants whose training code has changed since"""
    from chatlib.book import assistants as answering

    kept = stored_results.everything()
    for found in kept:
        if found.changed:
            stages = ", ".join(found.changed)
            print(
                f"{found.name}: {stages} changed since; `make confirm {found.name}` asks "
                f"whether that changed a digit, `make results {found.name}` renews it"
            )
    if old := answering.changed():
        print(f"assistants: {', '.join(old)} changed since; `make book` trains and writes new ones")
    current = sum(not found.changed for found in kept)
    print(f"{current} of {len(kept)} stored results are of the code that trains today")


def update_readme(names: list[str]) -> None:
    """rewrite the README's table and picture from the figures"""
    readme.update(RESULTS)
    print(f"README.md and {_near(readme.PICTURE)} rewritten from {_near(RESULTS)}")


COMMANDS = {
    "book": book,
    "refresh": refresh,
    "render": render_stored,
    "results": experiment,
    "confirm": confirm,
    "stale": stale,
    "readme": update_readme,
    "assistants": assistants,
}


def _near(path: Path) -> Path:
    """`path` as seen from the repository's root."""
    return path.relative_to(pages.ROOT)


def main() -> int:
    """Run one command; 1 and a sentence on what can be expected to go wrong."""
    parser = argparse.ArgumentParser(prog="python -m chatlib.book")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("pages", nargs="*", help="page names; all when none is given")
    chosen = parser.parse_args()
    try:
        COMMANDS[chosen.command](chosen.pages)
    except (execute.PageFailed, RuntimeError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
