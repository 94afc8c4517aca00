"""`make bench`: ratios of speed, each measured in turns at equal work, as a table and as JSON.

    python tests/bench/run.py [--rounds N] [--store] [ROW ...]

A ratio is the median over rounds of theirs / ours: above 1, ours is faster. The rows `launch`,
`relaunch`, `overhead` and `e2e` are costs over one import of torch, transformers and deepspeed.
Elsewhere both sides get the same weights, token ids and batches, two threads and fp32; in rows
named `own_batches` TRL groups the same examples its own way. Rows named `bf16` hold a stage in
bf16 against itself in fp32; of them no ratio is asked. The rows `serving` are servers with
one thread, asked by eight clients; of llama.cpp, which computes without Python, no ratio is asked.
`--store` keeps the figures beside this file, as `results.json`, with where they come from; rows
that were not measured keep theirs.
"""

from __future__ import annotations

import argparse
import os
import warnings
from functools import partial
from pathlib import Path

import compare

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPU on both sides; before torch is imported

import dpo_rows
import environments
import format_rows
import launch_rows
import ppo_rows
import reward_rows
import serving_rows
import sft_rows
import work

from chatlib.runs.provenance import origin

ROWS = {
    "sft_bare": sft_rows.against_bare_loop,
    "sft_trl": sft_rows.against_trl,
    "sft_trl_own_batches": partial(sft_rows.against_trl, own_batches=True),
    "reward_trl": reward_rows.against_trl,
    "reward_trl_own_batches": partial(reward_rows.against_trl, own_batches=True),
    "dpo_trl": dpo_rows.against_trl,
    "grpo_trl": ppo_rows.grpo_against_trl,
    "ppo_trl": ppo_rows.against_trl,
    "generation": ppo_rows.generation,
    "sft_bf16": format_rows.sft,
    "reward_bf16": format_rows.reward,
    "ppo_bf16": format_rows.ppo,
    "launch": launch_rows.launch,
    "relaunch": launch_rows.relaunch,
    "overhead": launch_rows.overhead,
    "e2e": launch_rows.end_to_end,
    "serving": partial(serving_rows.against, "transformers", 0.9),
    "serving_first": partial(serving_rows.first_token, "transformers", 1.1),
    "serving_llama": partial(serving_rows.against, "llama.cpp", None),
    "serving_llama_first": partial(serving_rows.first_token, "llama.cpp", None),
}
# rows that need no rank in this process
LAUNCHES = {"launch", "relaunch", "overhead", "e2e"}
LAUNCHES |= {name for name in ROWS if name.startswith("serving")}
PEERS = {"ppo_trl": ".venv-trl112"} | {  # rows whose other side has an environment of its own
    name: ".venv-bench"
    for name in ROWS
    if name.startswith(("sft_trl", "reward_trl", "dpo_trl", "grpo_trl"))
}
STORED = Path(__file__).with_name("results.json")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds of each row")
    parser.add_argument("--store", action="store_true", help=f"write {STORED.name}, too")
    asked = parser.parse_args()
    if unknown := set(asked.rows) - set(ROWS):
        parser.error(f"{', '.join(unknown)}: no such row; use {', '.join(ROWS)}")
    return asked


def line(row: compare.Row) -> str:
    """A row of the table."""
    f = row.figures()
    reached, side = "reached" if row.reached else "missed", "most" if row.at_most else "least"
    asked = "beside" if row.target is None else f"at {side} {row.target}: {reached}"
    return (
        f"{row.name:50} {f['ratio']:6.2f}  ({f['lowest']:.2f} to {f['highest']:.2f})  "
        f"{asked}   {f['ours']:.4g} and {f['theirs']:.4g} {f['unit']}"
    )


def main() -> None:
    """Measure the rows asked for, print each when it is done, write the JSON."""
    asked = arguments()
    warnings.filterwarnings("ignore")
    wanted = asked.rows or list(ROWS)
    for name in sorted({PEERS[name] for name in wanted if name in PEERS}):
        environments.set_up(name)
    if set(wanted) - LAUNCHES:
        work.start()
    for name in wanted:
        row = ROWS[name](asked.rounds)
        print(line(row), flush=True)
        keep(name, row, asked.store)


def keep(name: str, row: compare.Row, store: bool) -> None:
    """Write a row's figures with where they come from, as soon as they are there."""
    source = origin() | {
        "threads": compare.THREADS,
        "load": round(os.getloadavg()[0], 1),
        "peers": list(environments.TRL.values()),
    }
    source.pop("date")  # the commit dates a stored file
    measured = {name: row.figures() | {"provenance": source}}
    for path in [work.FOLDER.with_suffix(".json"), *([STORED] if store else [])]:
        compare.keep(path, measured)
        print(path.relative_to(work.ROOT))


if __name__ == "__main__":
    main()
