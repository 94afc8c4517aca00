"""What a stage trains on: its sources read, blended, split among the stages, some held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Generic, TypeVar, overload

from chatlib.data import corpora, readers, split
from chatlib.data.schema import Dialogue, Preference, Record
from chatlib.settings.corpora import CORPORA
from chatlib.settings.stages import DPOConfig, Reads, RewardConfig, SFTConfig, Source, StageConfig

Kind = TypeVar("Kind", bound=Record, covariant=True)


@dataclass(frozen=True)
class Data(Generic[Kind]):
    """Records of one stage; ``report`` says for each source what was kept, and what not."""

    train: list[Kind]
    held_out: list[Kind]
    report: list[str] = field(default_factory=list)


@overload
def load(config: SFTConfig) -> Data[Dialogue]: ...
@overload
def load(config: RewardConfig | DPOConfig) -> Data[Preference]: ...
@overload
def load(config: StageConfig) -> Data[Record]: ...
def load(config: StageConfig) -> Data[Record]:
    """The records of the stage's part, in the kind that it reads; no other part sees their prompts.

    ``config.reads`` says which: demonstrations are dialogues (of a preference the chosen answer),
    pairs preferences, prompts those of records of either kind. Raises `ValueError` when too
    little is left to train on, and `readers.Unreadable` for a source that cannot be used.
    """
    parts, report = [], []
    for source in config.sources:
        records, line = (_from_corpus if source.name in CORPORA else _from_reader)(source, config)
        parts.append(records)
        report.append(line)
    records = parts[0]
    if len(parts) > 1:
        weights, n = [s.weight for s in config.sources], min(config.records, sum(map(len, parts)))
        records = readers.blend(parts, weights, n, config.seed)
        used = zip(report, readers.shares(weights, n), map(len, parts))
        report = [f"{line}; {_use(share, there)}" for line, share, there in used]
    if not records:
        raise ValueError(
            f"nothing is left to train {config.stage} on ({'; '.join(report)}); give `sources` "
            f"that hold its records and a `split` that leaves it a share"
        )
    fifth = len(records) // 5
    train, held_out = split.hold_out(records, min(config.held_out, fifth), 0)
    if fifth < config.held_out:
        report.append(f"{fifth} held out, not {config.held_out}: a fifth of {len(records)} records")
    return Data(train, held_out, report)


def _use(share: int, there: int) -> str:
    """How a blend used a source: some of its records, or all and some of them again."""
    if share <= there:
        return f"{share} of {there} used"
    return f"all {there} used, and repeated to make {share}"


def _from_corpus(source: Source, config: StageConfig) -> tuple[list[Record], str]:
    share = config.split[split.PARTS.index(config.part)]
    if not share:
        return [], f"{source.name}: split {config.split} leaves {config.part} nothing"
    records = list(islice(_stream(source.name, config), config.records))
    return records, f"{source.name}: {len(records)} records"


def _stream(name: str, config: StageConfig) -> Iterator[Record]:
    """A corpus's endless stream of the part's own scenarios, each answered once (pairs: twice)."""
    rng, corpus = Random(f"{config.part} answers {config.seed}"), corpora.corpus(name)
    answer = corpus.preference if config.reads == "pairs" else corpus.demonstration
    for scenario in corpus.scenarios(config.seed):
        if split.part_of(scenario.messages(), config.split) == config.part:
            yield answer(rng, scenario)


def _from_reader(source: Source, config: StageConfig) -> tuple[list[Record], str]:
    reading = readers.read(source.name, source.format, config.records)
    mine = split.split(reading.records, config.split)[config.part]
    usable = [r for r in (_suits(config.reads, record) for record in mine) if r is not None]
    line = f"{reading.summary()}; {len(mine)} of them in {config.part}'s share"
    if len(usable) < len(mine):
        line += f", {len(mine) - len(usable)} left out: no pair of answers to prefer one of"
    return usable, line


def _suits(reads: Reads, record: Record) -> Record | None:
    """The record as a stage reads it; None where it is not of that kind."""
    if reads == "demonstrations" and isinstance(record, Preference):
        return record.dialogue()
    if reads == "pairs" and isinstance(record, Dialogue):
        return None
    return record
