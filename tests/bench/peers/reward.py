"""TRL's RewardTrainer on given token ids."""

import tempfile

import torch
from datasets import Dataset
from lockstep import QUIET, Lockstep, read, settings
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

wanted = settings()
model = AutoModelForSequenceClassification.from_pretrained(
    wanted["model"], num_labels=1, dtype=torch.float32
)
rows = read(wanted["data"])
config = RewardConfig(
    tempfile.mkdtemp(),
    per_device_train_batch_size=wanted["batch_size"],
    max_steps=len(rows) // wanted["batch_size"],
    train_sampling_strategy="sequential",
    learning_rate=wanted["learning_rate"],
    bf16=False,
    gradient_checkpointing=False,
    **QUIET,
)
RewardTrainer(
    model,
    config,
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(wanted["model"]),
    callbacks=[Lockstep(wanted["steps"])],
).train()
