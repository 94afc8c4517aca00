"""A model folder from elsewhere, without a chat template, goes through all three stages."""

import pytest
import tiny_stages as tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from chatlib.data import template
from chatlib.train import models, rollout


@pytest.mark.parametrize("shape", ["gpt2", "opt"])
def test_sft_reward_model_and_ppo(alone, tmp_path, shape):
    folder = tiny.foreign_folder(tmp_path / "model", shape)
    sft = tiny.train(tiny.sft(model=str(folder), steps=8), tmp_path / "sft")
    reward = tiny.train(tiny.reward(sft.model_dir), tmp_path / "reward")
    ppo = tiny.train(tiny.ppo(sft.model_dir, reward.model_dir), tmp_path / "ppo")
    losses = tiny.losses(sft)
    assert losses[-1] < losses[0]
    assert abs(tiny.losses(ppo, "kl")[0]) < 1e-5
    for run in (sft, reward, ppo):
        assert_loads_with_plain_transformers(run.model_dir, scorer=run is reward)


def assert_loads_with_plain_transformers(folder, scorer):
    """Nothing of ours is needed: weights, template and special tokens are in the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loader = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    model = loader.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    question = [{"role": "user", "content": "Where is my order?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize("shape", ["llama", "gpt2", "opt"])
def test_log_probs_are_those_of_the_whole_model(alone, tmp_path, shape):
    folder = str(tiny.foreign_folder(tmp_path, shape))
    tokenizer = models.load_tokenizer(folder)
    model = models.load_policy(folder, tokenizer).eval()
    turns = [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "To six."}]
    (encoded,) = template.encode(tokenizer, [turns])
    ids, mask = torch.tensor([encoded.ids]), torch.tensor([encoded.mask])
    logp, entropy = models.AnswerLM(model)(ids, mask, with_entropy=True)
    whole = model(ids).logits[0, :-1].log_softmax(-1)[mask[0, 1:].bool()]
    torch.testing.assert_close(logp, whole.gather(-1, ids[0, 1:][mask[0, 1:].bool(), None])[:, 0])
    torch.testing.assert_close(entropy, -(whole.exp() * whole).sum(-1))


def test_a_model_that_changes_its_logits_after_the_head_is_refused(alone):
    from transformers import CohereConfig, CohereForCausalLM

    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    heads = dict(num_attention_heads=2, num_key_value_heads=2)
    config = CohereConfig(vocab_size=64, logit_scale=0.1, pad_token_id=0, **sizes, **heads)
    with pytest.raises(ValueError, match="CohereForCausalLM changes its logits after the output"):
        models.check_head(CohereForCausalLM(config))


def test_answers_of_a_foreign_model(alone, tmp_path):
    folder = str(tiny.foreign_folder(tmp_path, "opt"))
    tokenizer = models.load_tokenizer(folder)
    model = models.load_policy(folder, tokenizer)
    asked = [[{"role": "user", "content": "Open? " * n}] for n in (1, 3, 2)]
    assert len(rollout.answer(model, tokenizer, asked, max_answer_tokens=5)) == 3
