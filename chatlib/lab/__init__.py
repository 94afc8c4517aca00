"""What a notebook touches: launch a stage, read its run, draw it. Imports no torch."""

from chatlib.lab.config import PPOConfig, RewardConfig, SFTConfig, Source, TinyModel
from chatlib.lab.failures import LaunchError, RankFailed, RankStuck
from chatlib.lab.launch import launch
from chatlib.lab.profiles import recipe, trained
from chatlib.lab.runs import Run, run_of

__all__ = [
    "LaunchError",
    "PPOConfig",
    "RankFailed",
    "RankStuck",
    "RewardConfig",
    "Run",
    "SFTConfig",
    "Source",
    "TinyModel",
    "launch",
    "recipe",
    "run_of",
    "trained",
]
