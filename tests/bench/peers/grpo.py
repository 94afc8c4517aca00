"""TRL's GRPOTrainer on given prompts, with the settings of the book's GRPO."""

import tempfile

import torch
from datasets import Dataset
from lockstep import QUIET, Lockstep, read, settings
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

wanted = settings()
ours = wanted["config"]
updates = ours["ppo_epochs"] * ours["minibatches"]  # optimizer steps of an iteration
answers = ours["batch_size"] * ours["answers_per_prompt"]
config = GRPOConfig(
    tempfile.mkdtemp(),
    per_device_train_batch_size=answers // ours["minibatches"],
    generation_batch_size=answers,
    num_iterations=ours["ppo_epochs"],
    num_generations=ours["answers_per_prompt"],
    max_steps=wanted["iterations"] * updates,
    max_completion_length=ours["max_answer_tokens"],
    temperature=ours["temperature"],
    top_k=0,
    top_p=1.0,
    beta=ours["kl_ctl"],
    epsilon=ours["cliprange"],
    loss_type="grpo",
    scale_rewards="group",
    shuffle_dataset=False,
    learning_rate=ours["actor_learning_rate"],
    bf16=False,
    gradient_checkpointing=False,
    **QUIET,
)
tokenizer = AutoTokenizer.from_pretrained(wanted["policy"], padding_side="left")
GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(wanted["policy"], dtype=torch.float32),
    reward_funcs=AutoModelForSequenceClassification.from_pretrained(
        wanted["reward_model"], num_labels=1, dtype=torch.float32
    ),
    reward_processing_classes=AutoTokenizer.from_pretrained(wanted["reward_model"]),
    args=config,
    train_dataset=Dataset.from_list(read(wanted["data"])),
    processing_class=tokenizer,
    callbacks=[Lockstep(wanted["steps"] * updates)],
).train()
