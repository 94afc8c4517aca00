"""A look into the sources before anything is started: a mistake there is one sentence at once."""

from __future__ import annotations

from chatlib.data import readers
from chatlib.data.schema import Preference
from chatlib.settings.corpora import CORPORA
from chatlib.settings.stages import Source, StageConfig

RECORDS = 20  # what is read of each file


def look_into(config: StageConfig) -> None:
    """Read the first records of every file. Raises `readers.Unreadable`, naming file and line.

    Only what is certain is refused: a file without one usable record, and one read to its end
    without a pair of answers where a reward model needs them. Rows that are left out beside
    usable ones are counted when all is read.
    """
    for source in config.sources:
        if source.name not in CORPORA and not source.name.startswith("hub:"):
            _look(source, config)


def _look(source: Source, config: StageConfig) -> None:
    reading = readers.read(source.name, source.format, RECORDS)
    if not reading.records:
        first = f"; {reading.problems[0]}" if reading.problems else ""
        raise readers.Unreadable(
            f"{source.name}: none of {reading.read} rows is a record in the format "
            f"{reading.format}{first}"
        )
    pairs = any(isinstance(record, Preference) for record in reading.records)
    if config.reads == "pairs" and not pairs and not reading.more:
        raise readers.Unreadable(
            f"{source.name}: no record has two answers, chosen and rejected, of which the stage "
            f"{config.stage} learns; give a file of preferences"
        )
