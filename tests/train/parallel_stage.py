"""What two ranks do in one launch: the same tiny training at every ZeRO stage, and more.

The worker runs it in place of a stage (`faults.stage`); its findings go to
`findings.json` in the run directory, trained models into folders there.
"""

import json
from pathlib import Path

import tiny_stages as tiny
import torch

from chatlib.data import collate, shop, template
from chatlib.runs import checkpoints
from chatlib.runs.files import read_json
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import Lora
from chatlib.train import engine, models, ppo, rollout

# Adam divides by the gradient's own size: with a small epsilon, weights whose gradient is all
# rounding error take full steps in random directions, and no two summation orders would agree.
STEPS = dict(steps=3, ranks=2, held_out=8, adam_epsilon=1e-3)
FAST = 2e-2  # a learning rate at which a wrong gradient shows within three steps


def train(config, recorder):
    """Every experiment in turn; the folders of a policy and a scorer stand in `inputs.json`."""
    inputs = read_json(recorder.directory.parent / "inputs.json")
    device = engine.start(config, recorder)
    place, findings = recorder.directory, {}
    for experiment in (
        *(zero_stages, reward_stages, resumed, rollouts, update_of_given_answers),
        alternatives,
    ):
        recorder.beat(0, experiment.__name__)
        findings[experiment.__name__] = experiment(place, inputs, device)
    recorder.beat(0, "unequal lengths")
    findings["unequal"] = unequal_lengths(inputs, device)
    parts = engine.gather([findings])
    if recorder.rank == 0:
        (place / "findings.json").write_text(json.dumps(parts))
    return {}


def zero_stages(place: Path, inputs, device):
    """SFT at stages 0 to 3, with every tensor of stage 3 looked at; LoRA at stage 3."""
    out = {}
    for stage in range(4):
        changes = dict(zero_stage=stage, learning_rate=FAST, **STEPS)
        nets, original = [], engine.initialize

        def remember(*args, original=original, nets=nets, **kwargs):
            nets.append(original(*args, **kwargs))
            return nets[-1]

        engine.initialize = remember
        run = tiny.train(tiny.sft(**changes), place / f"sft{stage}")
        engine.initialize = original
        nets[0].empty_partition_cache()  # an evaluation keeps the last layers it has gathered
        out[stage] = {"losses": tiny.losses(run), "tensors": [*map(held, nets[0].parameters())]}
    changes = dict(model=inputs["policy"], lora=Lora(), zero_stage=3, learning_rate=FAST, **STEPS)
    run = tiny.train(tiny.sft(**changes), place / "lora3")
    return out | {"lora": tiny.losses(run)}


def held(weight: torch.Tensor) -> tuple[int, int]:
    """(numbers that this rank holds of a weight, numbers that the whole weight has)"""
    if not hasattr(weight, "ds_id"):
        return weight.numel(), weight.numel()
    assert weight.numel() == 0, "gathered outside a forward pass"
    return weight.ds_tensor.numel(), weight.ds_numel


def reward_stages(place: Path, inputs, device):
    out = {}
    for stage in range(4):
        config = tiny.reward(inputs["policy"], zero_stage=stage, learning_rate=FAST, **STEPS)
        run = tiny.train(config, place / f"reward{stage}")
        out[stage] = [tiny.losses(run), run.manifest.get("held_out_accuracy")]
    return out


def resumed(place: Path, inputs, device):
    """PPO over two ranks at stage 2: four iterations, and two after two."""
    config = tiny.ppo(inputs["policy"], inputs["scorer"], save_every=2, zero_stage=2, **STEPS)
    config = config.model_copy(update={"steps": 4, "kl_target": 0.5, "kl_horizon": 50})
    whole = tiny.train(config, place / "whole")
    rest = place / "rest"
    engine.barrier()
    tiny.train(config, rest, checkpoints.checkpoint_path(whole.directory, 2))
    return None


def rollouts(place: Path, inputs, device):
    """The prompts and answers of this rank's part of one PPO batch."""
    torch.manual_seed(torch.distributed.get_rank())
    tokenizer = models.load_tokenizer(inputs["policy"])
    policy = models.load_policy(inputs["policy"], tokenizer).eval()
    config = tiny.ppo(inputs["policy"], inputs["scorer"], **STEPS)
    prompts = template.encode_prompts(tokenizer, [d.prompt for d in shop.demonstrations(40)])
    batches = collate.Batches([len(p) for p in prompts], config.batch_size, config.seed)
    own = collate.shard(batches.at(0), *tiny.place())
    same = [prompts[0]] * 4  # one prompt for all: only the draws may differ
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return {"prompts": own, "answers": rollout.sample(policy, same, 12, eos, pad)}


def update_of_given_answers(place: Path, inputs, device, worlds=2):
    """One PPO update on fixed answers: statistics, and the weights that it leaves."""
    out = {}
    for stage in (0, 1, 2, 3) if worlds > 1 else (0,):
        config = tiny.ppo(
            inputs["policy"],
            inputs["scorer"],
            ranks=worlds,
            minibatches=1,
            zero_stage=stage,
            actor_learning_rate=FAST,
            critic_learning_rate=FAST,
            adam_epsilon=STEPS["adam_epsilon"],
            whiten_rewards=True,
        )
        directory = place / f"update{stage}"
        (directory / "log").mkdir(parents=True, exist_ok=True)
        recorder = Recorder(directory, *tiny.place())
        nets = ppo.load_models(config, device, recorder)
        tokenizer = nets.tokenizer
        four = (nets.actor, nets.critic, nets.reference, nets.reward_model)
        partitioned = [not any(w.numel() for w in net.parameters()) for net in four]
        assert partitioned == [stage == 3] * 4, "a model lies whole on every rank"
        prompts, answers = given_answers(tokenizer)
        prompts, answers = (collate.shard(part, *tiny.place()) for part in (prompts, answers))
        r = ppo.make_experience(config, nets, prompts, answers)
        ppo.add_advantages(config, r, beta=0.1)
        sums, _ = ppo.update(config, nets, r, 0.1)
        again = ppo.make_experience(config, nets, prompts, answers)
        ppo.add_advantages(config, again, beta=0.1)
        figures = ppo.describe(again, sums, [], tokenizer)
        out[stage] = figures
        engine.save_model(nets.actor, tokenizer, directory / "model")
    return out


def given_answers(tokenizer):
    """Eight prompts and answers of unequal lengths, some ended and some not."""
    dialogues = shop.demonstrations(8, seed=7)
    prompts = template.encode_prompts(tokenizer, [d.prompt for d in dialogues])
    answers = template.encode_answers(
        tokenizer, [d.prompt for d in dialogues], [d.answer for d in dialogues]
    )
    return prompts, [a[: 4 + 3 * i] if i % 3 else a[:5] + a[-1:] for i, a in enumerate(answers)]


def unequal_lengths(inputs, device):
    """Generation at stage 3 where one rank's answers end at once and the other's do not."""
    config = tiny.ppo(inputs["policy"], inputs["scorer"], zero_stage=3, **STEPS)
    tokenizer = models.load_tokenizer(config.model)
    model = models.AnswerLM(models.load_policy(config.model, tokenizer))
    net = engine.initialize(config, model, 1e-3, 1, "actor")
    net.eval()
    prompts = template.encode_prompts(tokenizer, [d.prompt for d in shop.demonstrations(3)])
    pad, found = tokenizer.pad_token_id, []
    for stop in (-1, None):
        torch.manual_seed(5)
        rank = torch.distributed.get_rank()
        if stop is None:  # rank 0 stops at its rows' third token, rank 1 never
            stop = found[0][0][2] if rank == 0 else -1
        with engine.whole(net):
            drawn = rollout.sample(net.module.model, prompts[:1], 12, stop, pad)
        found.append(drawn)
    free, stopped = found
    return {"free": free[0], "stopped": stopped[0], "expected": truncate(free[0], stop)}


def truncate(answer: list[int], stop: int) -> list[int]:
    """The answer up to and including its first stop token; whole when there is none."""
    return answer[: answer.index(stop) + 1] if stop in answer else answer


# ---------------------------------------------------------------- chapter 10's algorithms
WITHOUT_CRITIC = {  # ZeRO stage and advantage
    "group": dict(zero_stage=1, advantage="group", kl_in="loss", kl_estimator="k2"),
    "rloo": dict(zero_stage=2, advantage="rloo"),
    "global": dict(zero_stage=3, advantage="global"),
}


def alternatives(place: Path, inputs, device, worlds=2):
    """An update of each algorithm without a critic on given answers, and DPO at stage 2."""
    out = {}
    for name, changes in WITHOUT_CRITIC.items():
        stage = changes["zero_stage"] if worlds > 1 else 0
        config = tiny.ppo(
            inputs["policy"],
            inputs["scorer"],
            **changes | dict(ranks=worlds, minibatches=1, zero_stage=stage),
            answers_per_prompt=2,
            actor_learning_rate=FAST,
            adam_epsilon=STEPS["adam_epsilon"],
        )
        directory = place / name
        (directory / "log").mkdir(parents=True, exist_ok=True)
        nets = ppo.load_models(config, device, Recorder(directory, *tiny.place()))
        prompts, answers = given_answers(nets.tokenizer)
        groups = [[(prompts[i], answers[i + j]) for j in (0, 1)] for i in range(0, 8, 2)]
        own = [one for group in collate.shard(groups, *tiny.place()) for one in group]
        r = ppo.make_experience(config, nets, *map(list, zip(*own)))
        ppo.add_advantages(config, r, beta=0.1)
        sums, _ = ppo.update(config, nets, r, 0.1)
        out[name] = engine.sum_over_ranks(sums).tolist()
        engine.save_model(nets.actor, nets.tokenizer, directory / "model")
    changes = STEPS | dict(ranks=worlds, zero_stage=2 if worlds > 1 else 0, learning_rate=FAST)
    run = tiny.train(tiny.dpo(inputs["policy"], **changes), place / "dpo")
    return out | {"dpo": [*tiny.losses(run), run.manifest.get("held_out_accuracy")]}
