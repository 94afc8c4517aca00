"""What a notebook touches: launch a stage, read its run, draw it. Imports no torch."""

from chatlib.lab.launching import launch
from chatlib.lab.origins import card
from chatlib.lab.profiles import recipe, trained
from chatlib.lab.stored_results import stored
from chatlib.launch.failures import LaunchError, RankFailed, RankStuck
from chatlib.runs.store import Run, run_of
from chatlib.settings.stages import PPOConfig, RewardConfig, SFTConfig, Source, TinyModel

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
    "card",
    "launch",
    "recipe",
    "run_of",
    "stored",
    "trained",
]
