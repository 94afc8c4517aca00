"""A tiny Llama with the shop's own kind of tokenizer: grouped heads, two layers, random weights."""

from types import SimpleNamespace

import torch

from chatlib.data import shop, template
from chatlib.settings.stages import PPOConfig

PROMPTS = [d.messages[:-1] for d in shop.demonstrations(40, seed=7)]


def save(folder, seed=0, kind="LlamaForCausalLM", **changes):
    """A model folder in Hugging Face format, with every shape that an export can get wrong."""
    import transformers

    words = template.train_tokenizer((d.answer for d in shop.demonstrations(60, seed=3)), 420)
    shape = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "initializer_range": 0.12,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{**shape, **changes})
    getattr(transformers, kind)(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def finished_ppo(home, beta, answers=8):
    """What a finished PPO run leaves, as far as it is read: three folders, settings, a manifest.

    The policy is another random model than the one it claims to start from; the rate is bold.
    """
    start, tuned = save(home / "start"), save(home / "tuned", seed=1)
    judge = save(home / "judge", kind="LlamaForSequenceClassification", num_labels=1, seed=5)
    settings = {"max_answer_tokens": 12, "actor_learning_rate": 3e-2, "batch_size": answers}
    config = PPOConfig(model=str(start), reward_model=str(judge), **settings)
    manifest = {"beta": beta}
    return SimpleNamespace(config=config.model_dump(), reference=str(tuned), manifest=manifest)
