"""A tiny Llama with the shop's own kind of tokenizer: grouped heads, two layers, random weights."""

import torch

from chatlib.data import shop, template

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
