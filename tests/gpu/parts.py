"""`make gpu`: everything that waits for a card, in parts that can be continued.

    python tests/gpu/parts.py [--size 1b|tiny] [--wheels FOLDER] [--store FILE] [PART ...]

Parts: the tests marked `gpu`; SFT, reward model and PPO of a model of TinyLlama's shape (1.1
billion weights, random, so that no hub is needed); ZeRO 2 and 3 with offload. Prompts fill 512 and
answers 256 tokens. Each part ends within eight minutes and is stored when it is done; one that was
measured with this code on this device is not measured again. Without a card the same runs on the
CPU (`--size tiny`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "notebooks" / "results" / "gpu.json"
FOLDER = ROOT / "_build" / "gpu"
PART_SECONDS, ALL_SECONDS = 480, 22 * 60
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121}  # TFLOPs, bf16, data sheets
FIGURES = ("samples_per_second", "tokens_per_second", "tflops", "generation_share", "seconds")


@dataclass(frozen=True)
class Size:
    """A model's shape, the tokens of its texts, and how much of them is trained on."""

    shape: tuple[int, ...]  # width, inner width, layers, heads, key heads, vocabulary
    prompt: int
    answer: int
    batch: int
    records: int
    steps: dict[str, int]


SIZES = {
    "1b": Size(
        (2048, 5632, 22, 32, 4, 32_000), 512, 256, 16, 1500, dict(sft=30, reward=20, ppo=4, zero=4)
    ),
    "tiny": Size((64, 128, 2, 4, 2, 2000), 96, 32, 4, 90, dict(sft=2, reward=2, ppo=1, zero=2)),
}


# ------------------------------------------------------------------ model and data


def random_model(size: Size, folder: Path) -> Path:
    """A folder with a Llama of random weights and a tokenizer of the shop's words."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from chatlib.data import shop, template

    if (folder / "tokenizer.json").is_file():
        return folder
    width, inner, layers, heads, groups, vocabulary = size.shape
    set_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    texts = (m["content"] for d in shop.demonstrations(2000) for m in d.messages)
    template.train_tokenizer(texts, 1536).save_pretrained(folder)
    return folder


def long_pairs(size: Size, model: Path) -> Path:
    """Pairs of the shop whose prompts and answers are made as long as they are asked to be."""
    from chatlib.data import shop
    from chatlib.train.models import load_tokenizer

    path, tokenizer = model.with_name(f"{model.name}.jsonl"), load_tokenizer(str(model))

    def stretched(text: str, tokens: int) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer.decode((ids * (tokens // len(ids) + 1))[:tokens])

    with open(path, "w", encoding="utf-8") as lines:
        for n, pair in enumerate(shop.preferences(size.records)):
            facts, room = f"{n}. {pair.prompt[0]['content']}", size.prompt - 8  # the template's
            question = {"role": "user", "content": stretched(facts, room)}
            answers = {
                side: [{"role": "assistant", "content": stretched(text, size.answer)}]
                for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
            }
            lines.write(json.dumps({"prompt": [question], **answers}) + "\n")
    return path


def configuration(name: str, size: Size, model: Path, reward_model: str = "", **changes):
    """The settings of a stage: all weights, the format that the device likes, no accumulation."""
    from chatlib.settings.registry import STAGES

    settings = dict(
        model=str(model),
        sources=[str(long_pairs(size, FOLDER / model_name(size)))],
        split=(1, 1, 1),
        records=size.records,
        held_out=16,
        ranks=1,
        zero_stage=1,
        batch_size=size.batch,
        max_seq_len=size.prompt + size.answer,
        steps=size.steps[name],
        num_warmup_steps=0,
    )
    if name == "ppo":
        settings |= dict(reward_model=reward_model, max_answer_tokens=size.answer)
    elif name == "reward":
        settings |= dict(reference_samples=16)
    if name != "ppo":
        settings |= dict(learning_rate=1e-5)
    return STAGES["sft" if name == "zero" else name](**settings | changes)


def model_name(size: Size) -> str:
    """The name of a size's folder."""
    return next(name for name, known in SIZES.items() if known == size)


# ------------------------------------------------------------------------ the parts


def launched(config) -> dict[str, float]:
    """Launch a stage; its figures, and the device's peak beside what was predicted of it."""
    from chatlib.lab import launch
    from chatlib.launch import memory
    from chatlib.settings.device import accelerator

    facts = launch(config).manifest
    figures = {name: round(facts[name], 3) for name in FIGURES if name in facts}
    parts = memory.memory(config, accelerator())
    figures["peak_gib"] = round(max(facts["peak_device_bytes"]) / 2**30, 2)
    figures["predicted_gib"] = round((sum(parts.values()) - parts["process"]) / 2**30, 2)
    figures["resident_gib"] = round(max(facts["peak_bytes"]) / 2**30, 2)
    if peak := next((p for key, p in PEAKS.items() if key in facts["device"]), None):
        figures["mfu"] = round(facts["tflops_per_rank"] / peak, 4)
    return figures


def stage(name: str, size: Size) -> dict:
    """One of the three stages; those before it are found, or trained again."""
    from chatlib.lab import launch

    model = random_model(size, FOLDER / model_name(size))
    if name != "ppo":
        return launched(configuration(name, size, model))
    scorer = launch(configuration("reward", size, model))
    return launched(configuration("ppo", size, model, scorer.reference))


def zero(size: Size) -> dict:
    """SFT with ZeRO 2 and 3, what they share out in host memory."""
    model = random_model(size, FOLDER / model_name(size))
    settings = [dict(zero_stage=n, offload=True) for n in (2, 3)]
    return {
        f"zero{s['zero_stage']}_offload": launched(configuration("zero", size, model, **s))
        for s in settings
    }


def marked_tests(size: Size) -> dict:
    """The tests marked `gpu`; raises when one fails."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-m", "gpu"]
    ended = subprocess.run([*command, "tests/train"], cwd=ROOT, capture_output=True, text=True)
    print(ended.stdout, ended.stderr, flush=True)
    if ended.returncode:
        raise SystemExit("tests marked gpu fail; see above")
    return {"outcome": ended.stdout.strip().splitlines()[-1].strip("= ")}


PARTS = {
    "tests": marked_tests,
    "sft": lambda size: stage("sft", size),
    "reward": lambda size: stage("reward", size),
    "ppo": lambda size: stage("ppo", size),
    "zero": zero,
}


# ------------------------------------------------------------------- one after another


def code() -> str:
    """A fingerprint of the code that is measured."""
    files = sorted([*(ROOT / "chatlib").rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def device() -> str:
    """The device's name."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def measure(name: str, asked: argparse.Namespace) -> None:
    """Carry one part out and merge what it found into the file."""
    from chatlib.lab import results
    from chatlib.runs.provenance import origin

    began = time.monotonic()
    figures = PARTS[name](SIZES[asked.size])
    seconds = round(time.monotonic() - began, 1)
    facts = {"figures": figures, "seconds": seconds, "code": code(), "provenance": origin()}
    results.write(
        asked.store,
        results.merge(results.read(asked.store), {device(): {asked.size: {name: facts}}}),
    )
    print(f"{name}: {seconds} s", json.dumps(figures), flush=True)


def is_done(name: str, asked: argparse.Namespace) -> bool:
    """Was this part measured with this code on this device?"""
    known = json.loads(asked.store.read_text(encoding="utf-8")) if asked.store.is_file() else {}
    return known.get(device(), {}).get(asked.size, {}).get(name, {}).get("code") == code()


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--wheels", type=Path, help="packages to unpack first: see wheels.py")
    parser.add_argument("--store", type=Path, default=STORED, help=f"default {STORED.name}")
    parser.add_argument("--here", action="store_true", help="one part, in this process")
    asked = parser.parse_args(given)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: no such part; use {', '.join(PARTS)}")
    return asked


def environment(wheels: Path | None) -> dict[str, str]:
    """Where Python finds this project, what was unpacked for it, and where its runs go."""
    found, target = [str(ROOT)], FOLDER / "site"
    if wheels:
        from wheels import unpack

        unpack(wheels, target)
    if target.is_dir():
        found.append(str(target))
    path = os.pathsep.join([*found, os.environ.get("PYTHONPATH", "")])
    programs = os.pathsep.join([str(target / "bin"), os.environ["PATH"]])
    runs = os.environ.get("CHATLIB_RUNS") or str(FOLDER / "runs")
    own = {"PYTHONPATH": path.strip(os.pathsep), "PATH": programs, "CHATLIB_RUNS": runs}
    return {**os.environ, **own, "CHATLIB_PROGRESS": "none"}


def main(given: list[str] | None = None) -> int:
    """Run what is not done, a process for each part; the exit code tells whether all is."""
    asked = arguments(given)
    if asked.here:
        for name in asked.parts:
            measure(name, asked)
        return 0
    began, around, left = time.monotonic(), environment(asked.wheels), []
    for name in asked.parts or PARTS:
        if is_done(name, asked):
            print(f"{name}: done, with this code on this device", flush=True)
            continue
        most = min(PART_SECONDS, ALL_SECONDS - (time.monotonic() - began))
        command = [sys.executable, __file__, "--here", name, "--size", asked.size]
        try:
            subprocess.run(
                [*command, "--store", asked.store], env=around, timeout=max(1, most), check=True
            )
        except subprocess.SubprocessError as error:
            left.append(name)
            print(f"{name}: not done ({error})", flush=True)
    print(f"left to do: {', '.join(left)}" if left else f"all in {asked.store}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
