"""The chat template: texts survive, masks fit, and no content can pose as somebody's turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from chatlib.data import shop, template
from chatlib.data.schema import BadRecord

DIALOGUES = [d.messages for d in shop.demonstrations(60, seed=3)]
TOKENIZER = template.train_tokenizer((m["content"] for d in DIALOGUES for m in d), 600)
PAD, EOS = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id
ROLES = [TOKENIZER.convert_tokens_to_ids(t) for t in template.ROLE_TOKENS]

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
forged = st.lists(
    st.one_of(texts, st.sampled_from([template.PAD, template.END, *template.ROLE_TOKENS])),
    min_size=1,
    max_size=5,
).map("".join)


def dialogue(*contents):
    """Messages of the roles user, assistant, user, ... with these contents."""
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]


def answers(encoded):
    """The masked tokens, one list for each answer."""
    out, last = [], 0
    for token, marked in zip(encoded.ids, encoded.mask):
        if marked and not last:
            out.append([])
        if marked:
            out[-1].append(token)
        last = marked
    return out


# ------------------------------------------------------------------- texts and masks
def test_a_dialogue_by_hand():
    text = template.render(TOKENIZER, [dialogue("Hello!", "How can I help?")])[0]
    assert text == "<|user|>Hello!<|end|><|assistant|>How can I help?<|end|>"
    (encoded,) = template.encode(TOKENIZER, [dialogue("Hello!", "How can I help?")])
    own = TOKENIZER("How can I help?")["input_ids"]
    assert encoded.ids[-len(own) - 1 :] == [*own, EOS]
    assert encoded.mask == [0] * (len(encoded.ids) - len(own) - 1) + [1] * (len(own) + 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=2, max_size=6))
def test_any_text_comes_back_from_its_tokens(contents):
    contents = contents[: len(contents) // 2 * 2]
    (encoded,) = template.encode(TOKENIZER, [dialogue(*contents)])
    whole = TOKENIZER.decode(encoded.ids)
    assert whole == template.render(TOKENIZER, [dialogue(*contents)])[0]
    said = [TOKENIZER.decode(a, skip_special_tokens=True) for a in answers(encoded)]
    assert said == contents[1::2]
    assert PAD not in encoded.ids


@settings(max_examples=60, deadline=None)
@given(st.lists(forged, min_size=2, max_size=4))
def test_special_tokens_in_a_message_cannot_forge_a_turn(contents):
    contents = contents[: len(contents) // 2 * 2]
    (encoded,) = template.encode(TOKENIZER, [dialogue(*contents)])
    ids = encoded.ids
    assert ids.count(EOS) == len(contents) and ids.count(PAD) == 0
    assert sum(ids.count(role) for role in ROLES) == len(contents)
    assert all(a[-1] == EOS and EOS not in a[:-1] for a in answers(encoded))


@settings(max_examples=30, deadline=None)
@given(st.lists(forged, min_size=1, max_size=3).filter(lambda c: len(c) % 2), forged)
def test_prompt_and_answer_encoded_apart_are_the_dialogue(contents, answer):
    prompt = dialogue(*contents)
    turns = [*prompt, {"role": "assistant", "content": answer}]
    opened = template.encode_prompts(TOKENIZER, [prompt])[0]
    closed = template.encode_answers(TOKENIZER, [prompt], [answer])[0]
    assert opened + closed == template.encode(TOKENIZER, [turns])[0].ids


def test_what_follows_the_last_answer_is_left_out():
    messages = [*dialogue("Hello!", "Hi."), {"role": "user", "content": "Bye."}]
    (encoded,) = template.encode(TOKENIZER, [messages])
    assert encoded == template.encode(TOKENIZER, [messages[:2]])[0]


def test_many_at_once_are_encoded_as_one_by_one():
    together = template.encode(TOKENIZER, DIALOGUES)
    assert together == [template.encode(TOKENIZER, [d])[0] for d in DIALOGUES]
    assert template.encode(TOKENIZER, []) == [] == template.encode_prompts(TOKENIZER, [])


def test_decode_leaves_special_tokens_out():
    ids = template.encode_answers(TOKENIZER, [dialogue("Hi.")], ["Good day."])
    assert template.decode(TOKENIZER, [[*ids[0], PAD, PAD]]) == ["Good day."]


# ----------------------------------------------------------------------- the tokenizer
def test_an_order_code_is_one_token_wherever_it_stands():
    codes = [f" {code}" for code in shop.CODES]
    many = template.train_tokenizer((f"order{c} and{c};" for c in codes for _ in range(9)), 600)
    for code in codes:
        ids = [set(many(f)["input_ids"]) for f in (f"order{code}.", f"The{code}!", code)]
        assert len(set.intersection(*ids)) == 1 and len(many(code)["input_ids"]) == 1


def test_training_a_tokenizer_is_deterministic_and_survives_saving(tmp_path):
    again = template.train_tokenizer((m["content"] for d in DIALOGUES for m in d), 600)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    again.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded.chat_template == template.CHAT_TEMPLATE
    assert template.encode(loaded, DIALOGUES) == template.encode(TOKENIZER, DIALOGUES)


def test_padding_is_no_end_and_no_role():
    tokenizer = template.train_tokenizer(["Hello."], 300)
    special = [tokenizer.convert_tokens_to_ids(t) for t in (template.END, *template.ROLE_TOKENS)]
    assert tokenizer.eos_token_id == special[0]
    assert tokenizer.pad_token_id not in special


# ------------------------------------------------------------- tokenizers from elsewhere
def foreign(**special) -> PreTrainedTokenizerFast:
    tokenizer = template.train_tokenizer(["Hello, how are you?"] * 4, 300)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)


def test_a_tokenizer_without_a_template_gets_ours():
    tokenizer = foreign(eos_token="</s>", pad_token="</s>")
    before = len(tokenizer)
    template.prepare_tokenizer(tokenizer)
    assert tokenizer.chat_template == template.CHAT_TEMPLATE
    assert tokenizer.eos_token == template.END
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert template.prepare_tokenizer(tokenizer) == 0  # nothing is lacking any more
    assert len(tokenizer) >= before
    (encoded,) = template.encode(tokenizer, [dialogue("Hello", "you?")])
    assert encoded.ids[-1] == tokenizer.eos_token_id and encoded.mask[-1] == 1


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_a_tokenizer_whose_pad_is_its_end_gets_another_pad(pad):
    own = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}"
    own += "{% if add_generation_prompt %}[assistant] {% endif %}"
    tokenizer = foreign(eos_token="</s>", pad_token=pad, chat_template=own)
    template.prepare_tokenizer(tokenizer)
    assert tokenizer.chat_template == own and tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token == template.PAD


def test_the_end_token_that_a_model_had_before_is_not_said_by_content_either():
    tokenizer = foreign(eos_token="</s>")
    template.prepare_tokenizer(tokenizer)
    old = tokenizer.convert_tokens_to_ids("</s>")
    (encoded,) = template.encode(tokenizer, [dialogue("a</s>b", "c</s>d")])
    assert old not in encoded.ids


def test_a_foreign_template_that_does_not_end_turns_gets_an_end_of_answer():
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = foreign(eos_token="</s>", chat_template=plain)
    template.prepare_tokenizer(tokenizer)
    (encoded,) = template.encode(tokenizer, [dialogue("Hello", "you", "how", "are")])
    assert encoded.ids.count(tokenizer.eos_token_id) == 2
    assert all(a[-1] == tokenizer.eos_token_id for a in answers(encoded))


def test_a_template_that_rewrites_earlier_turns_is_refused():
    last_only = "{% for m in messages %}{% if loop.last %}{{ m['content'] }}{% endif %}{% endfor %}"
    tokenizer = foreign(eos_token="</s>", chat_template=last_only)
    with pytest.raises(BadRecord, match=r"writes turn 1 differently.*another template"):
        template.encode(tokenizer, [dialogue("Hello", "you", "how", "are")])
