import pytest
import torch

from chatlib.data import template
from chatlib.evaluate import scorer

TEXTS = ["order 214 is shipped", "I cannot help", "Hello, where is it?"]
PROMPTS = [[{"role": "user", "content": t}] for t in TEXTS]
ANSWERS = ["It is shipped.", "I cannot help with that, and I am sorry about it.", "Here."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny classifier with one output and stored normalisation."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = template.train_tokenizer(TEXTS + ANSWERS, 320)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config.score_mean, config.score_std = 3.0, 2.0
    path = tmp_path_factory.mktemp("reward")
    LlamaForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_scores_equal_transformers_own_of_each_answer_alone(folder):
    """The classifier's logit at the last token, normalised, whatever else is in the batch."""
    from transformers import AutoModelForSequenceClassification

    judge = scorer.load(folder)
    found = judge.score(PROMPTS, ANSWERS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for prompt, answer, score in zip(PROMPTS, ANSWERS, found):
        turns = [*prompt, {"role": "assistant", "content": answer}]
        (whole,) = template.encode(judge.tokenizer, [turns])
        logit = model(torch.tensor([whole.ids])).logits.item()
        assert score == pytest.approx((logit - 3.0) / 2.0, abs=1e-4)


def test_scores_do_not_depend_on_the_batch(folder):
    judge = scorer.load(folder)
    one, all_at_once = (judge.score(PROMPTS, ANSWERS, batch_size=n) for n in (1, 3))
    assert one == pytest.approx(all_at_once, abs=1e-4)


def test_unequal_numbers_are_refused(folder):
    with pytest.raises(ValueError, match="3 prompts but 1 answers"):
        scorer.load(folder).score(PROMPTS, ["a"])
