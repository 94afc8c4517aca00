"""A stage's records, written once and then read: a corpus takes longer to invent than to read.

The book's shop needs 10 to 20 seconds for the records of a stage (this machine; a second to read
them), and its launches ask for the same few over and over. So rank 0 of the first launch that
needs them writes them beside the runs, for its peers and for whoever comes after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import overload

from chatlib.data import sources
from chatlib.data.schema import Dialogue, Preference, Record
from chatlib.data.sources import Data
from chatlib.runs import code
from chatlib.runs.files import write_atomically
from chatlib.runs.identity import corpora_of
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import DPOConfig, RewardConfig, SFTConfig, StageConfig
from chatlib.train import engine

FOLDER = "records"  # among the runs
KEPT = 12  # files, of 4 to 40 MB; the least recently used make room
ASKED = ("split", "records", "held_out", "seed")  # settings that decide what is drawn


@overload
def load_data(config: SFTConfig, recorder: Recorder) -> Data[Dialogue]: ...
@overload
def load_data(config: RewardConfig | DPOConfig, recorder: Recorder) -> Data[Preference]: ...
@overload
def load_data(config: StageConfig, recorder: Recorder) -> Data[Record]: ...
def load_data(config: StageConfig, recorder: Recorder) -> Data[Record]:
    """`sources.load` for all ranks of a launch (a collective): corpora are invented once.

    What is read from files is read by every rank, as it may be large and is quickly parsed.
    """
    if len(corpora_of(config)) < len(config.sources):
        return sources.load(config)
    path = recorder.directory.parent / FOLDER / f"{key(config)}.jsonl"
    if recorder.rank == 0 and not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(lines(sources.load(config))))
        for old in sorted(path.parent.glob("*.jsonl"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    engine.barrier()
    with contextlib.suppress(OSError):  # another user's runs may be read all the same
        os.utime(path)
    return parsed(path)


def key(config: StageConfig) -> str:
    """Equal for equal records: what was asked for, and the code that invents them."""
    settings = config.model_dump(mode="json", include={*ASKED, "sources"})
    files = [path for name in corpora_of(config) for path in code.corpus_files(name)]
    own = [*files, *(Path(module.__file__ or "") for module in (sources, sources.split))]
    written = [config.part, config.reads, settings, [code.source_hash(path) for path in own]]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()[:16]


def lines(data: Data[Record]) -> Iterator[str]:
    """The report and how many are held out, then a record a line, the held-out ones last."""
    yield json.dumps({"report": data.report, "held_out": len(data.held_out)}) + "\n"
    for record in [*data.train, *data.held_out]:
        yield json.dumps(vars(record), ensure_ascii=False) + "\n"


def parsed(path: Path) -> Data[Record]:
    """What `lines` wrote; a tuple in a record's ``meta`` has become a list."""
    with open(path, encoding="utf-8") as file:
        head, *rows = (json.loads(line) for line in file)
    records: list[Record] = [(Dialogue if "messages" in row else Preference)(**row) for row in rows]
    cut = len(records) - head["held_out"]
    return Data(records[:cut], records[cut:], head["report"])
