"""A rank's part of all stages on two pretended GPUs: python stages_on_cards.py RANK PORT FOLDER"""

import json
import sys
import time
import types
from pathlib import Path
from unittest import mock

import pretend

rank, port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
pretend.begin(rank, 2, port)

import tiny_stages as tiny  # noqa: E402
import torch  # noqa: E402

from chatlib.runs import checkpoints  # noqa: E402
from chatlib.settings.stages import Lora, TinyModel  # noqa: E402
from chatlib.train import engine  # noqa: E402

NET = TinyModel(hidden_size=16, intermediate_size=32, layers=1, heads=2, vocab_size=500)
SMALL = dict(ranks=2, steps=1, records=80, held_out=4, batch_size=4, max_seq_len=128)


def cases() -> dict:
    """Configurations by name, in an order in which models are there before they are needed."""
    policy, scorer = folder / "sft0" / "model", folder / "reward0" / "model"
    found = {}
    for stage in range(4):
        same = SMALL | dict(zero_stage=stage)
        found[f"sft{stage}"] = tiny.sft(model=NET, print_answers=1, **same)
        found[f"reward{stage}"] = tiny.reward(policy, reference_samples=4, **same)
        short = dict(max_answer_tokens=4, minibatches=1, ppo_epochs=1, kl_target=0.5)
        found[f"ppo{stage}"] = tiny.ppo(policy, scorer, enable_ema=stage in (0, 3), **same, **short)
    for stage in (0, 3):
        more = SMALL | dict(steps=2, save_every=1, zero_stage=stage)
        found[f"lora{stage}"] = tiny.sft(model=policy, lora=Lora(lora_dim=2), **more)
    more = SMALL | dict(steps=2, save_every=1, max_answer_tokens=8)
    found["drawn"] = tiny.ppo(policy, scorer, minibatches=1, ppo_epochs=1, **more)
    found["checkpointing"] = tiny.sft(
        model=policy, gradient_checkpointing=True, print_answers=1, **SMALL
    )
    return found


def run(name: str, config) -> dict:
    """One case: its losses or scores and its seconds."""
    began = time.time()
    done = tiny.train(config, folder / name)
    engine.barrier()
    return {"figures": figures(done, config), "seconds": time.time() - began}


def figures(done, config) -> list[float]:
    """The losses of a run, or PPO's scores."""
    return tiny.losses(done, "score" if config.stage == "ppo" else "loss")


def resumed(name: str, config, again: str = "again") -> dict:
    """The second of two steps after a checkpoint of the first."""
    checkpoint = checkpoints.checkpoint_path(folder / name, 1)
    done = tiny.train(config, folder / f"{name}_{again}", checkpoint)
    engine.barrier()
    return {"figures": figures(done, config)}


def forgetful(name: str, config) -> dict:
    """The same, but the card's random numbers begin anew."""
    with mock.patch.object(torch.cuda, "set_rng_state", lambda state: None):
        return resumed(name, config, "forgetful")


def reductions() -> dict:
    """Where sums and maxima over the ranks lie, of tensors here and there."""
    out = {}
    for place in ("cpu", engine.own_device()):
        mine = torch.tensor([1.0 + rank, 5.0 - rank], device=place)
        for reduce in (engine.sum_over_ranks, engine.max_over_ranks):
            found = reduce(mine)
            out[f"{reduce.__name__} {torch.device(place).type}"] = [
                found.device.type,
                found.tolist(),
            ]
    return out


def steps_after_a_universal_checkpoint() -> list[str]:
    """Where the optimizer's step counts lie that arrived as numbers and on the CPU."""
    weights = [torch.nn.Parameter(torch.ones(3, device=engine.own_device())) for _ in range(2)]
    optimizer = torch.optim.AdamW(weights, fused=True)
    optimizer.state = {w: {"step": s} for w, s in zip(weights, (4, torch.tensor(4.0)))}
    rates = types.SimpleNamespace(get_last_lr=lambda: [1e-3])
    engine.part_groups(types.SimpleNamespace(optimizer=optimizer, lr_scheduler=rates))
    return [state["step"].device.type for state in optimizer.state.values()]


findings = {"reductions": reductions(), "steps": steps_after_a_universal_checkpoint()}
for name, config in cases().items():
    findings[name] = run(name, config)
    if config.save_every:
        findings[f"{name} resumed"] = resumed(name, config)
    if name == "drawn":
        findings["drawn forgetful"] = forgetful(name, config)
(folder / f"findings{rank}.json").write_text(json.dumps(findings))
torch.distributed.destroy_process_group()
