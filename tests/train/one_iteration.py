"""What an iteration of PPO has before it learns, for tests of its parts."""

import torch

from chatlib.data import shop, template
from chatlib.runs.recorder import Recorder
from chatlib.train import models, ppo


class Setting:
    """The four models of an iteration, prompts, and one draw for each prompt."""

    def __init__(self, config, directory, rows=8):
        self.config = config
        (directory / "log").mkdir(parents=True)
        self.recorder = Recorder(directory, 0, 1)
        self.tokenizer = models.load_tokenizer(config.model)
        self.pad, self.eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        self.nets = ppo.load_models(config, torch.device("cpu"), self.recorder)
        self.actor, self.critic = self.nets.actor, self.nets.critic
        self.reference, self.scorer = self.nets.reference, self.nets.reward_model
        self.models = (self.actor, self.critic, self.reference, self.scorer)
        self.dialogues = shop.demonstrations(rows, seed=5)
        asked = [d.prompt for d in self.dialogues]
        self.prompts = template.encode_prompts(self.tokenizer, asked)
        torch.manual_seed(1)
        self.drawn = ppo.generate(config, self.actor, self.prompts, self.tokenizer)
        self.answers = [list(a) for a in self.drawn]
        for i, length in enumerate((3, 7, 5)):  # three that have ended, at their own lengths
            self.answers[i] = [*self.answers[i][: length - 1], self.eos]

    def experience(self):
        return ppo.make_experience(self.config, self.nets, self.prompts, self.answers)

    def learn(self, r, beta=0.05):
        """One update on the whole rollout: (statistics' sums, largest log-ratio)."""
        return ppo.update(self.config, self.nets, r, beta)
