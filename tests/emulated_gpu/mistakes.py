"""Tensors put in the wrong place, one at a time: python mistakes.py PORT FOLDER

Each mistake replaces one name of chatlib, then a stage runs on a pretended GPU; what that says
goes to `mistakes.json`, and "nothing" where the stage ended well.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import pretend

port, folder = int(sys.argv[1]), Path(sys.argv[2])
pretend.begin(0, 1, port)

import tiny_stages as tiny  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from chatlib.data import collate  # noqa: E402
from chatlib.maths import policy as maths  # noqa: E402
from chatlib.settings.stages import TinyModel  # noqa: E402
from chatlib.train import engine, models, ppo, reward, rollout  # noqa: E402

engine.several_ranks = lambda: True  # a group of one reduces for real, too
NET = TinyModel(hidden_size=16, intermediate_size=32, layers=1, heads=2, vocab_size=500)
SMALL = dict(ranks=1, steps=1, records=80, held_out=4, batch_size=4, max_seq_len=128)


def sft(place):
    return tiny.train(tiny.sft(model=NET, **SMALL), place)


def scorer(place):
    return tiny.train(tiny.reward(folder / "sft" / "model", reference_samples=4, **SMALL), place)


def tune(place):
    short = dict(max_answer_tokens=4, minibatches=1, ppo_epochs=1, **SMALL)
    names = (folder / "sft" / "model", folder / "reward" / "model")
    return tiny.train(tiny.ppo(*names, **short), place)


def to_cpu(function):
    """The function with its (first) result left in host memory."""

    def moved(*args, **kwargs):
        out = function(*args, **kwargs)
        return (out[0].cpu(), *out[1:]) if isinstance(out, tuple) else out.cpu()

    return moved


def reduced(op, back):
    """A reduction as it was: the tensor where it stands, or left on the group's device."""

    def run(x):
        x = torch.as_tensor(x).detach().clone()
        x = x if back else x.to("cuda")
        dist.all_reduce(x, op=op)
        return x

    return run


def grid(flat, mask):
    return torch.zeros(mask.shape).masked_scatter(mask.bool(), flat)


def first_only(device, *tensors):
    return [tensors[0].to(device), *tensors[1:]]


def left_behind(*args, load=models.load_policy, **kwargs):
    model = load(*args, **kwargs)
    model.to = lambda *args, **kwargs: model
    return model


def states_behind(*args, initialize=engine.initialize, **kwargs):
    net = initialize(*args, **kwargs)
    step = net.step

    def after_the_first_half(*args, **kwargs):
        for weights in net.optimizer.optimizer.param_groups:
            for weight in weights["params"]:
                net.optimizer.optimizer.state[weight] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        return step(*args, **kwargs)

    net.step = after_the_first_half
    return net


SUM, MAX, draw = dist.ReduceOp.SUM, dist.ReduceOp.MAX, rollout.draw
MISTAKES = {
    "a batch stays in host memory": (sft, collate, "to_device", lambda device, *x: list(x)),
    "only a batch's ids are moved": (sft, collate, "to_device", first_only),
    "labels stay in host memory": (
        sft,
        models,
        "token_log_probs",
        lambda logits, labels, t=1.0, f=models.token_log_probs: f(logits, labels.cpu(), t),
    ),
    "the optimizer's step count is on the CPU": (sft, engine, "initialize", states_behind),
    "a sum over the ranks stays on the GPU": (tune, engine, "sum_over_ranks", reduced(SUM, False)),
    "a maximum is taken of a CPU tensor": (tune, engine, "max_over_ranks", reduced(MAX, True)),
    "frozen models are not moved": (tune, engine, "frozen", lambda m, *a: m.eval()),
    "a grid is made on the CPU": (tune, ppo, "to_grid", grid),
    "scores come back to the CPU": (tune, reward, "score", to_cpu(reward.score)),
    "advantages come back to the CPU": (tune, maths, "gae", to_cpu(maths.gae)),
    "positions are counted on the CPU": (
        tune,
        collate,
        "positions",
        to_cpu(collate.positions),
    ),
    "a token is drawn on the CPU": (tune, rollout, "draw", to_cpu(draw)),
    "the generator is the CPU's": (
        tune,
        rollout,
        "draw",
        lambda logits, t, generator=None: draw(logits, t, torch.Generator()),
    ),
    "log-probabilities come back to the CPU": (tune, ppo, "log_probs", to_cpu(ppo.log_probs)),
    # legal on CUDA: a number, an index, and answers (lists) may come from the host
    "legal: the normalising policy stays on the CPU": (
        scorer,
        models,
        "load_policy",
        left_behind,
    ),
    "legal: a denominator on the CPU": (tune, ppo, "denominator", to_cpu(ppo.denominator)),
    "legal: an index mask on the CPU": (scorer, reward, "last_token", to_cpu(reward.last_token)),
}


def run(stage, module, name, wrong, place) -> str:
    """What the stage says with one name replaced."""
    with mock.patch.object(module, name, wrong):
        try:
            stage(place)
        except (RuntimeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"[:200]
    return "nothing"


sft(folder / "sft")
scorer(folder / "reward")
tune(folder / "ppo")
found = {
    name: run(*parts, folder / f"mistake{i}") for i, (name, parts) in enumerate(MISTAKES.items())
}
(folder / "mistakes.json").write_text(json.dumps(found, indent=1))
