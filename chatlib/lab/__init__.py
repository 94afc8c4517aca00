"""What a notebook touches: launch a stage, read its run, draw it. Imports no torch."""

from chatlib.lab.config import PPOConfig, RewardConfig, SFTConfig, Source, TinyModel

__all__ = ["PPOConfig", "RewardConfig", "SFTConfig", "Source", "TinyModel"]
