"""What each chapter asks and needs, read off the pages themselves, for the front page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from chatlib.book import pages

WORDS_A_MINUTE = 200  # of prose with formulas
MADE_BY = {"sft": "03_sft", "reward": "04_reward", "ppo": "05_ppo"}  # a recipe's own chapter
HEAD = "| chapter | question | needs | minutes to read |\n|---|---|---|---|"


@dataclass(frozen=True)
class Chapter:
    """A page: its title and question, the chapters whose models it uses, words of its prose."""

    name: str
    title: str
    question: str
    needs: tuple[str, ...]
    words: int

    @property
    def minutes(self) -> int:
        """Minutes that reading takes, running and exercises apart."""
        return max(1, round(self.words / WORDS_A_MINUTE))


def chapter(path: Path) -> Chapter:
    """Read a page. Raises `ValueError` naming a page without a title or a question."""
    cells = pages.load(path).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", prose, flags=re.M)
    asked = re.search(r"\*\*Question\.\*\*\s+(.+?)(?:\n\n|\Z)", prose, flags=re.S)
    if not title or not asked:
        raise ValueError(f"{path.name} has no title or no **Question.**; a page begins with both")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    used = {MADE_BY[name] for name in re.findall(r'trained\("(\w+)"', code) if name in MADE_BY}
    needs = tuple(sorted(name for name in used if name < path.stem))
    words = len(re.sub(r"```.*?```", " ", prose, flags=re.S).split())
    return Chapter(path.stem, title[1], " ".join(asked[1].split()), needs, words)


def chapters(folder: Path = pages.NOTEBOOKS) -> list[Chapter]:
    """The numbered pages, in reading order."""
    return [chapter(path) for path in pages.notebooks(folder) if path.stem[0].isdigit()]


def table(found: list[Chapter]) -> str:
    """Markdown: a row a chapter, with links between the rendered pages."""
    rows = []
    for one in found:
        needs = ", ".join(f"[{name[1]}]({name}.html)" for name in one.needs) or "nothing"
        rows.append(
            f"| [{one.title}]({one.name}.html) | {one.question} | {needs} | {one.minutes} |"
        )
    return "\n".join([HEAD, *rows])
