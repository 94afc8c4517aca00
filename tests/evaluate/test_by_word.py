from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from chatlib.data import segment, shop, tag, template
from chatlib.data.schema import Dialogue
from chatlib.evaluate import by_word

TEXT = "Dear Iris, the red kettle is 75 euros."
FACTS = [(5, 9, "NAME"), (15, 25, "PRODUCT"), (29, 31, "MONEY")]
KINDS = ["other word", "fact", "mark", "stop word", "fact", "fact", "stop word", "fact"]
KINDS += ["other word", "mark"]


def test_each_word_has_the_kind_that_it_has_by_hand():
    kinds = by_word.kinds_of(TEXT, FACTS)
    assert [kind for _, _, kind in kinds] == KINDS
    assert [TEXT[i:j] for i, j, _ in kinds] == segment.words(TEXT)


def test_a_stop_word_inside_a_fact_is_a_stop_word_as_stripping_takes_it():
    kinds = by_word.kinds_of("the end", [(0, 7, "NAME")])
    assert [kind for *_, kind in kinds] == ["stop word", "fact"]


def test_stripping_keeps_the_kinds_on_their_words():
    for text, spans in tag.annotated(shop.demonstrations(50)):
        bare, kept = by_word.stripped(text, by_word.kinds_of(text, spans))
        assert bare == segment.without_stop_words(text)
        assert [bare[i:j] for i, j, _ in kept] == bare.split()
        whole = Counter(kind for *_, kind in by_word.kinds_of(text, spans))
        assert Counter(kind for *_, kind in kept) == Counter(
            {k: n for k, n in whole.items() if k in ("fact", "other word")}
        )


def test_only_the_named_turns_are_stripped_and_empty_ones_take_their_dialogue_along():
    turns = [("system", "open 9 to 18"), ("user", "When?"), ("assistant", "We open at 9.")]
    record = Dialogue([{"role": role, "content": text} for role, text in turns])
    (bare,) = by_word.strip_dialogues([record], ["assistant"])
    assert [m["content"] for m in bare.messages] == ["open 9 to 18", "When?", "open 9"]
    assert by_word.strip_dialogues([record], ["user"]) == []
    assert record.answer == "We open at 9."  # the original is left as it was


META = {"intent": "hours", "facts": {"open": "9", "close": "18"}, "prompt": "open 9 to 18"}


def test_facts_are_counted_as_whole_words_without_regard_to_grammar():
    assert by_word.facts_said(META, "We are open from 9 to 18.") == 1
    assert by_word.facts_said(META, "open 9") == 0.5
    assert by_word.facts_said(META, "open 90 to 180") == 0
    assert by_word.facts_said(META | {"intent": "greeting"}, "Hello") is None


def test_a_number_that_the_prompt_does_not_have_is_invented():
    assert by_word.invents(META, "open 9 18") == 0
    assert by_word.invents(META, "We are open from 8 to 18.") == 1


class Next(torch.nn.Module):
    """Gives the probability 1/4 to the token with the next id, whatever came before."""

    device = torch.device("cpu")

    def __init__(self, vocabulary):
        super().__init__()
        self.size = vocabulary

    def forward(self, input_ids, attention_mask):
        p = torch.full((*input_ids.shape, self.size), 0.75 / (self.size - 1))
        p.scatter_(2, ((input_ids + 1) % self.size)[..., None], 0.25)
        return SimpleNamespace(logits=p.log())


@pytest.fixture(scope="module")
def tokenizer():
    return template.train_tokenizer([TEXT, "How much is it?"] * 5, 400)


def asked(text):
    return [{"role": "user", "content": text}]


def test_the_loss_of_all_kinds_together_is_the_loss_of_the_answers(tokenizer):
    """Against a loop over single examples; a shift by one place would change nearly every row."""
    prompts = [asked("How much is it?"), asked("Hm?")]
    texts = [TEXT, "Dear Iris, hello."]
    answers = [(t, by_word.kinds_of(t, FACTS[:1])) for t in texts]
    model = Next(len(tokenizer))
    table = by_word.nats_by_word(model, tokenizer, prompts, answers)
    for i, (prompt, text) in enumerate(zip(prompts, texts)):
        dialogue = [*prompt, {"role": "assistant", "content": text}]
        (one,) = template.encode(tokenizer, [dialogue])
        logp = model(torch.tensor([one.ids]), None).logits[0].log_softmax(-1)
        wanted = [-logp[t - 1, one.ids[t]].item() for t in range(len(one.ids)) if one.mask[t]]
        own = table[table["answer"] == i]
        assert own["nats"].tolist() == pytest.approx(wanted, rel=1e-5)
        assert own["kind"].tolist()[-1] == "end"
        assert "O" not in set(own["kind"])


def test_batches_change_nothing(tokenizer):
    prompts, texts = [asked("How much?"), asked("?"), asked("Is it?")], [TEXT, "No.", "Iris"]
    answers = [(t, by_word.kinds_of(t, [])) for t in texts]
    model = Next(len(tokenizer))
    whole, single = (by_word.nats_by_word(model, tokenizer, prompts, answers, n) for n in (3, 1))
    assert whole["kind"].equals(single["kind"])
    assert whole["nats"].tolist() == pytest.approx(single["nats"].tolist())
