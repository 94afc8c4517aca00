"""TRL's PPOTrainer (1.12.0, its last) on given prompts, with the settings of the book's PPO."""

import tempfile

import torch
from datasets import Dataset
from lockstep import QUIET, Lockstep, read, settings
from torch.utils.data import DataLoader, SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

wanted = settings()
ours = wanted["config"]
tokenizer = AutoTokenizer.from_pretrained(wanted["policy"], padding_side="left")


def policy():
    return AutoModelForCausalLM.from_pretrained(wanted["policy"], dtype=torch.float32)


def scorer():
    return AutoModelForSequenceClassification.from_pretrained(
        wanted["reward_model"], num_labels=1, dtype=torch.float32
    )


config = PPOConfig(
    tempfile.mkdtemp(),
    per_device_train_batch_size=ours["batch_size"],
    gradient_accumulation_steps=1,
    total_episodes=wanted["iterations"] * ours["batch_size"],
    num_ppo_epochs=ours["ppo_epochs"],
    num_mini_batches=ours["minibatches"],
    local_rollout_forward_batch_size=ours["batch_size"],
    response_length=ours["max_answer_tokens"],
    temperature=ours["temperature"],
    stop_token="eos",
    missing_eos_penalty=ours["missing_eos_penalty"],
    kl_coef=ours["kl_ctl"],
    gamma=ours["gamma"],
    lam=ours["lam"],
    cliprange=ours["cliprange"],
    cliprange_value=ours["cliprange_value"],
    learning_rate=ours["actor_learning_rate"],
    num_sample_generations=0,
    bf16=False,
    gradient_checkpointing=False,
    **QUIET,
)
trainer = PPOTrainer(
    config,
    tokenizer,
    model=policy(),
    ref_model=policy(),
    reward_model=scorer(),
    value_model=scorer(),
    train_dataset=Dataset.from_list(read(wanted["data"])),
    callbacks=[Lockstep(wanted["steps"])],
)
in_order = SequentialSampler(trainer.train_dataset)  # as our side takes them; TRL would shuffle
trainer.dataloader = DataLoader(
    trainer.train_dataset,
    batch_size=ours["batch_size"],
    sampler=in_order,
    collate_fn=trainer.data_collator,
)
trainer.train()
