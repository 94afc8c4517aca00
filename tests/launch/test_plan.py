"""Dry runs: the arithmetic against sums by hand, and what is printed."""

import math

import pytest
from launches import config

from chatlib.lab import PPOConfig, TinyModel, launch
from chatlib.launch import memory, plan
from chatlib.runs.files import write_json
from chatlib.settings.deepspeed import all_deepspeed_json, deepspeed_json, resolve_dtype
from chatlib.settings.stages import Lora


def test_the_tiny_models_weights_are_counted_as_transformers_counts_them():
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = TinyModel(hidden_size=32, layers=3, heads=2, vocab_size=300)
    shape = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=tiny.intermediate_size,
        num_hidden_layers=3,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape)
    assert memory.trained(memory.tiny_shapes(tiny), None) == model.num_parameters()
    by_hand = 3 * 2 * (4 * (32 + 32))  # layers x (q, v) x rank (in + out)
    assert memory.trained(memory.tiny_shapes(tiny), Lora(lora_dim=4)) == by_hand
    upper = Lora(lora_dim=4, top_layers=1)
    assert memory.trained(memory.tiny_shapes(tiny), upper) == by_hand / tiny.layers


def test_a_stored_models_weights_are_read_from_its_headers(home):
    import torch
    from safetensors.torch import save_file

    weights = {"a.weight": torch.zeros(3, 5), "b.bias": torch.zeros(7), "c": torch.tensor(1.0)}
    save_file(weights, home / "model.safetensors", metadata={"format": "pt"})
    shapes = memory.stored_shapes(home)
    assert sum(map(math.prod, shapes.values())) == 15 + 7 + 1


def test_ppo_counts_four_models_and_its_own_batches(home):
    for name in ("sft-1", "reward-1"):
        import torch
        from safetensors.torch import save_file

        (home / name / "model").mkdir(parents=True)
        save_file({"w.weight": torch.zeros(1000)}, home / name / "model" / "model.safetensors")
        write_json(home / name / "manifest.json", {"status": "complete"})
    ppo = PPOConfig(model="run:sft-1", reward_model="run:reward-1", ranks=2, minibatches=2)
    parts = memory.memory(ppo, "cpu")
    assert parts["reference and reward model"] == parts["weights"] == 8000
    assert parts["optimizer"] == 16000
    sharded = PPOConfig(**ppo.model_dump() | {"zero_stage": 3, "offload_reference_model": True})
    assert memory.memory(sharded, "cpu")["reference and reward model"] == 4000
    on_card = memory.memory(sharded, "cuda")
    assert on_card["reference and reward model"] == 1000  # bf16, one of two, half of it
    assert on_card["bucket"] == 2 * 2 * 50_000_000
    thrifty = PPOConfig(**sharded.model_dump() | {"offload": True})
    assert memory.memory(thrifty, "cuda")["optimizer"] == 0
    assert memory.checkpoint_bytes(thrifty, "cuda") == 2 * 1000 // 2 * (2 + 12)
    averaged = PPOConfig(**thrifty.model_dump() | {"enable_ema": True})
    assert memory.checkpoint_bytes(averaged, "cuda") == 14000 + 2 * 1000
    assert plan.batch_line(ppo).startswith("16 micro x 1 accumulation x 2 ranks = 32 examples")
    assert "64 answers and 4 optimizer steps an iteration" in plan.batch_line(ppo)
    documents = all_deepspeed_json(ppo.model_copy(update={"critic_zero_stage": 3}), "cpu")
    assert {k: d["zero_optimization"]["stage"] for k, d in documents.items()} == {
        "actor": 0,
        "critic": 3,
    }


def test_the_number_format_follows_the_device():
    assert resolve_dtype(config(), "cpu") == "fp32"
    assert resolve_dtype(config(), "cuda") == "bf16"
    assert deepspeed_json(config(dtype="fp16"), "cuda")["fp16"] == {"enabled": True}
    assert not {"fp16", "bf16"} & set(deepspeed_json(config(), "cpu"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_understands_its_configuration(stage, tmp_path):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    settings = config(zero_stage=stage, offload=stage > 0, enable_tensorboard=True)
    document = deepspeed_json(settings, "cpu", directory=tmp_path)
    zero = DeepSpeedZeroConfig(**document["zero_optimization"])
    assert zero.stage == stage
    assert (zero.offload_optimizer is not None) == (stage > 0)
    assert (zero.offload_param is not None) == (stage == 3)
    assert document["tensorboard"]["output_path"].startswith(str(tmp_path))


def test_a_dry_run_prints_the_plan_and_starts_nothing(home, capsys, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("CHATLIB_DEVICE", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(plan, "cores", lambda: 8)
    run = launch(config(batch_size=24, gradient_accumulation_steps=3), dry_run=True)
    printed = capsys.readouterr().out
    assert "--master_port=PORT --module chatlib.train.worker --run" in printed
    assert "OMP_NUM_THREADS=4" in printed and "DS_ACCELERATOR" not in printed
    assert "4 micro x 3 accumulation x 2 ranks = 24 examples" in printed
    assert "weights 2.0 MiB" in printed and '"gradient_accumulation_steps": 3' in printed
    assert not run.directory.exists()
