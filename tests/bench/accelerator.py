"""The `gpu` profile on this machine's accelerator: speed and memory of its three stages.

    python tests/bench/accelerator.py [--shape 1b|tiny] [--steps N] [--peak TFLOPS] [--store]

The model has the shape of TinyLlama (1.1 billion weights), the data are the shop's. Its weights are
random, so that no hub is needed: what a model knows changes nothing but the length of its answers,
and these all have the full one. `--store` keeps the figures beside this file, by device. On a
machine without an accelerator the same runs on its CPU (`--shape tiny` takes a minute).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from compare import keep

from chatlib import lab
from chatlib.book import pages
from chatlib.lab import profiles
from chatlib.runs.provenance import origin

FOLDER = pages.BUILD / "accelerator"
STORED = Path(__file__).with_name("accelerator.json")
STAGES = ("sft", "reward", "ppo")
SHAPES = {  # width, inner width, layers, heads, heads of keys and values, vocabulary
    "1b": (2048, 5632, 22, 32, 4, 32_000),
    "tiny": (64, 128, 2, 4, 2, 2000),
}
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121}  # TFLOPs, bf16, data sheets
FIGURES = ("samples_per_second", "tokens_per_second", "tflops", "generation_share", "seconds")


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument(
        "--steps", type=int, default=30, help="of SFT and reward model; PPO a tenth"
    )
    parser.add_argument("--batch", type=int, default=64, help="examples of a step, in one pass")
    parser.add_argument(
        "--peak", type=float, help="TFLOPs of the device, where its name tells none"
    )
    parser.add_argument("--store", action="store_true", help=f"write {STORED.name}, too")
    return parser.parse_args(given)


def random_model(shape: str) -> Path:
    """A folder with a Llama of random weights and a tokenizer of the shop's words."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from chatlib.data import shop, template

    width, inner, layers, heads, groups, vocabulary = SHAPES[shape]
    folder = FOLDER / shape
    if not (folder / "tokenizer.json").is_file():
        set_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        texts = (m["content"] for d in shop.demonstrations(4000) for m in d.messages)
        template.train_tokenizer(texts, 1536).save_pretrained(folder)
    return folder


def profile(model: Path, steps: int, batch: int) -> profiles.Profile:
    """The `gpu` profile with this model, the shop's data, few steps and no accumulation."""
    found = profiles.PROFILES["gpu"]
    size = {"batch_size": batch, "gradient_accumulation_steps": 1, "records": 6000, "held_out": 64}
    own = {"all": size} | {name: {"steps": steps} for name in STAGES}
    own["ppo"] = {"steps": max(2, steps // 10)}
    settings = {name: found.settings.get(name, {}) | own.get(name, {}) for name in {*own}}
    return found.model_copy(update={"model": str(model), "sources": None, "settings": settings})


def measured(run: lab.Run, peak: float | None) -> dict[str, float]:
    """A stage's figures; `mfu` is the share of the device's peak that model FLOPs make up."""
    facts = run.manifest
    figures = {name: round(facts[name], 3) for name in FIGURES if name in facts}
    figures["peak_device_gib"] = round(max(facts["peak_device_bytes"]) / 2**30, 2)
    figures["peak_resident_gib"] = round(max(facts["peak_bytes"]) / 2**30, 2)
    if peak:
        figures["mfu"] = round(facts["tflops_per_rank"] / peak, 4)
    return figures


def main(given: list[str] | None = None) -> dict:
    """Launch the three stages, print each one's figures, write and return them all."""
    asked = arguments(given)
    os.environ["CHATLIB_RUNS"] = str(FOLDER / "runs")
    at = profile(random_model(asked.shape), asked.steps, asked.batch)
    stages, device = {}, ""
    for name in STAGES:
        run = lab.trained(name, profile=at)
        device = run.manifest["device"]
        peak = asked.peak or next((p for key, p in PEAKS.items() if key in device), None)
        stages[name] = measured(run, peak)
        print(f"{device}: {name}", json.dumps(stages[name]), flush=True)
    found = {"shape": asked.shape, "batch": asked.batch, "peak_tflops": peak, "stages": stages}
    for path in [FOLDER.with_suffix(".json"), *([STORED] if asked.store else [])]:
        keep(path, {device: found | {"provenance": origin()}})
        print(path.relative_to(pages.ROOT))
    return found


if __name__ == "__main__":
    main()
