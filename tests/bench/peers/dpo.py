"""TRL's DPOTrainer on given token ids, the reference's log-probabilities taken before training."""

import tempfile

import torch
from datasets import Dataset
from lockstep import QUIET, Lockstep, read, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

wanted = settings()
model = AutoModelForCausalLM.from_pretrained(wanted["model"], dtype=torch.float32)
rows = read(wanted["data"])
config = DPOConfig(
    tempfile.mkdtemp(),
    per_device_train_batch_size=wanted["batch_size"],
    max_steps=len(rows) // wanted["batch_size"],
    train_sampling_strategy="sequential",
    learning_rate=wanted["learning_rate"],
    beta=wanted["beta"],
    precompute_ref_log_probs=True,
    precompute_ref_batch_size=wanted["batch_size"],
    bf16=False,
    gradient_checkpointing=False,
    **QUIET,
)


class GivenIds(DPOTrainer):
    """Takes token ids as they are; TRL's own preparation wants texts."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


GivenIds(
    model,
    args=config,
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(wanted["model"]),
    callbacks=[Lockstep(wanted["steps"])],
).train()
