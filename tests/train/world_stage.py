"""What two ranks do in one launch: tiny runs whose checkpoints another world takes up."""

import tiny_stages as tiny

from chatlib.runs.files import read_json
from chatlib.settings.stages import Lora
from chatlib.train import engine

STEPS = dict(steps=8, save_every=4, ranks=2, adam_epsilon=1e-3, learning_rate=2e-2, held_out=8)


def train(config, recorder):
    """SFT at every ZeRO stage, a reward model with adapters, PPO; models stand in `inputs.json`."""
    inputs = read_json(recorder.directory.parent / "inputs.json")
    engine.start(config, recorder)
    for name, case in cases(inputs, **STEPS).items():
        recorder.beat(0, name)
        tiny.train(case, recorder.directory / name)
    return {}


def cases(inputs, **settings):
    """The configurations by name; the same for any number of ranks."""
    ppo = {k: v for k, v in settings.items() if k != "learning_rate"}
    found = {f"sft{stage}": tiny.sft(zero_stage=stage, **settings) for stage in range(4)}
    for stage in (0, 1, 3):
        found[f"bf16_{stage}"] = tiny.sft(zero_stage=stage, dtype="bf16", **settings)
    for stage in (1, 3):
        found[f"offload{stage}"] = tiny.sft(zero_stage=stage, offload=True, **settings)
    for stage in (1, 3):  # two parameter groups: adapters and score head
        lora = Lora(lora_learning_rate=5e-2)
        found[f"lora{stage}"] = tiny.reward(
            inputs["policy"], lora=lora, zero_stage=stage, reference_samples=8, **settings
        )
    found["ppo"] = tiny.ppo(
        inputs["policy"],
        inputs["scorer"],
        **ppo | dict(steps=2, save_every=1, zero_stage=1, enable_ema=True, kl_target=0.5),
    )
    return found
