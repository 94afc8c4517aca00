"""Any public reward model drops in: another tokenizer, an encoder, a head of another name."""

import pytest
import tiny_stages as tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from chatlib.train import models as load
from chatlib.train import ppo, reward

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = "the shop is open order due monday your anna yes no hello . , ? !".split()


def encoder(folder, shape, positions=200):
    """A reward model's folder as a stranger saves it: one output, words as tokens, no template."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1)
    sizes |= dict(
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=0,
        num_labels=1,
        initializer_range=0.5,
    )
    config, model = {
        "bert": (BertConfig, BertForSequenceClassification),
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
    }[shape]
    model(config(max_position_embeddings=positions, **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_an_encoder_with_its_own_tokenizer_scores_the_answers_as_its_makers_would(
    shape, policy, tmp_path
):
    folder = encoder(tmp_path / "judge", shape)
    theirs = load.load_reward_tokenizer(folder)
    net = load.TextScorer(load.load_scorer(str(folder), theirs).eval())
    prompts = [[{"role": "user", "content": "is the shop open ?"}]] * 2
    answers = ["yes , the shop is open .", "no"]
    scores, cut = reward.score_texts(net, prompts, answers, theirs, "cpu")
    for answer, score in zip(answers, scores):
        alone = theirs("is the shop open ?", answer, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(net.model(**alone).logits[0, 0], score)
    assert scores[0] != scores[1] and not cut.any()
    config = tiny.ppo(policy.model_dir, folder)
    run = tiny.train(config, tmp_path / "run")
    assert len(set(tiny.losses(run, "score"))) == 2 and "reward_cut" not in run.metrics
    with pytest.raises(ValueError, match="has another tokenizer than the policy"):
        tiny.train(tiny.ppo(policy.model_dir, folder, critic_init="reward"), tmp_path / "no")


@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_what_it_cannot_read_is_cut_and_counted(shape, tmp_path):
    folder = encoder(tmp_path, shape, positions=12)
    theirs = load.load_reward_tokenizer(folder)
    net = load.TextScorer(load.load_scorer(str(folder), theirs).eval())
    asked = ["the " * 60 + "open", "the " * 60 + "monday", "?"]
    prompts = [[{"role": "user", "content": text}] for text in asked]
    scores, cut = reward.score_texts(net, prompts, ["yes"] * 3, theirs, "cpu")
    assert cut.tolist() == [True, True, False]
    assert scores[0] != scores[1]  # the end of the prompt is what was read


def test_an_encoder_without_a_trained_head_gets_a_sentence(tmp_path):
    folder = encoder(tmp_path, "bert")
    BertModel(BertForSequenceClassification.from_pretrained(folder).config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"holds no trained head .*classifier"):
        load.load_scorer(str(folder), load.load_reward_tokenizer(folder))


def test_the_policys_own_vocabulary_needs_no_other_tokenizer(policy, scorer):
    config = tiny.ppo(policy.model_dir, scorer.model_dir)
    tokenizer = load.load_tokenizer(config.model)
    model, theirs = ppo.load_reward_model(config, tokenizer, torch.float32)
    assert isinstance(model, load.TokenScorer) and theirs is None
