"""The record of a run on disk, for reading.

A run is one directory `{stage}-{hash}` below `$CHATLIB_RUNS` (default: `runs/` at the repository
root). Only a manifest with `status: complete` counts as finished. pandas is imported when a table
is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatlib.runs.files import read_json
from chatlib.runs.identity import is_complete, root, run_name
from chatlib.runs.lock import is_held
from chatlib.runs.recorder import read_metrics
from chatlib.settings.stages import StageConfig

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """A run directory, for reading."""

    directory: Path

    @property
    def name(self) -> str:
        """The directory's name, `{stage}-{hash}`."""
        return self.directory.name

    @property
    def reference(self) -> str:
        """How a later stage's configuration names this run's model."""
        return f"run:{self.name}"

    @property
    def model_dir(self) -> Path:
        """The trained model, in plain Hugging Face format."""
        return self.directory / "model"

    @property
    def manifest(self) -> dict:
        """What is known of the run: seed, versions, world, seconds, peaks, summary, status."""
        return read_json(self.directory / "manifest.json")

    @property
    def complete(self) -> bool:
        """Whether the manifest says so; an exit code never counts."""
        return is_complete(self.directory)

    @property
    def status(self) -> str:
        """The manifest's status; `stopped` where it says running but no launch holds the run."""
        status = self.manifest.get("status", "not started")
        return "stopped" if status == "running" and not is_held(self.directory) else status

    @property
    def config(self) -> dict:
        """All that is needed to repeat the run."""
        return read_json(self.directory / "config.json")

    @property
    def metrics(self) -> pandas.DataFrame:
        """A row for each step and each evaluation; a figure that a row does not have is NaN."""
        import pandas

        return pandas.DataFrame(read_metrics(self.directory / "metrics.jsonl"))

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.status})"


def run_of(config: StageConfig, prints: dict[str, str] | None = None) -> Run:
    """The run of a configuration, begun or not."""
    return Run(root() / run_name(config, prints))


def all_runs() -> list[Run]:
    """Every run below `root()`, by name."""
    return [Run(p.parent) for p in sorted(root().glob("*/manifest.json"))]
