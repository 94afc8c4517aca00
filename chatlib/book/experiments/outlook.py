"""Where it is going, measured small (chapter 17): one policy for two tastes, and two languages.

*Personal*: a policy is tuned on customers who say which style they like, paid by a judge who knows;
the control is paid by the shop's judge, who does not. *Cross-lingual*: the shop in Chinese, learnt
from its own dialogues, from a third of them, and from that third beside English ones; then asked in
either language. *Alignment*: a translator, and where its heads look.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import pandas as pd

from chatlib.book.experiments import Witnesses, bracketed, finished, flatness, loaded, part
from chatlib.data import chinese, corpora, drawing, personal, pictures, readers, shop
from chatlib.data.drawing import COLOURS, SHAPES
from chatlib.data.schema import Dialogue
from chatlib.evaluate import alignment, uses
from chatlib.lab import Run, TinyModel, recipe
from chatlib.runs import identity
from chatlib.settings.stages import PPOConfig, SFTConfig

STAGES = ("sft", "ppo")
CORPORA = ("personal", "shop-zh", "shop", "pictures")
SEEDS = (0, 1)
CASES = 300
WORDS = 1200  # of the vocabulary, but for `MANY_WORDS`
AMOUNT = 6000  # Chinese dialogues; a third of them; as many English ones as that one lacks
PAIRS, KEPT_PAIRS = 6000, 300  # sentences to translate, and others to read attention on
ARMS: dict[str, list[tuple[str, int]]] = {
    "Chinese": [("shop-zh", AMOUNT)],
    "a third": [("shop-zh", AMOUNT // 3)],
    "a third, and English": [("shop-zh", AMOUNT // 3), ("shop", 2 * AMOUNT // 3)],
    "the same, longer": [("shop-zh", AMOUNT // 3), ("shop", 2 * AMOUNT // 3)],
    "English": [("shop", 2 * AMOUNT // 3)],
    "Chinese, many words": [("shop-zh", AMOUNT)],
}
MANY_WORDS = {"Chinese, many words": 2400}  # where a whole phrase becomes one token
ONCE = ("English", *MANY_WORDS)  # of one seed
LANGUAGE_STEPS = 3000  # of 16 dialogues, for every arm but one
# In as many steps a mixed model reads each Chinese dialogue a third as often as without English;
# in three times as many, as often.
LONGER = {"the same, longer": 3 * LANGUAGE_STEPS}
HELD_OUT = 200  # dialogues of an arm's mixture, beyond those it learns from


def results() -> dict[str, Any]:
    """All experiments, seed by seed; a finished part is not computed again."""
    styles = {arm: [styled(arm, seed) for seed in SEEDS] for arm in ("sft", *PAID)}
    seeds = {arm: SEEDS[:1] if arm in ONCE else SEEDS for arm in ARMS}
    languages = {arm: [speaking(arm, seed) for seed in seeds[arm]] for arm in ARMS}
    found = {
        "personal": styles,
        "crosslingual": languages,
        "alignment": [aligned(s) for s in SEEDS],
    }
    seen = {"pictures": [looking(seed) for seed in SEEDS]}
    return {"seed_list": list(SEEDS), "cases": CASES, "amount": AMOUNT} | found | seen


def witnesses() -> Witnesses:
    """The first seed of everything."""
    found: Witnesses = {("personal", arm, 0): partial(styled, arm, 0) for arm in ("sft", *PAID)}
    found |= {("crosslingual", arm, 0): partial(speaking, arm, 0) for arm in ARMS}
    return found | {("alignment", 0): partial(aligned, 0), ("pictures", 0): partial(looking, 0)}


# ------------------------------------------------------------------------------ personal
# who pays: the judge who reads the stated preference, or one for whom all customers are alike
PAID: dict[str, str] = {
    "knows the preference": "gold",
    "does not": "chatlib.data.personal:gold_of_the_shop",
}


def styled(arm: str, seed: int) -> dict[str, Any]:
    """How often answers have the stated style, and what they are worth without it, to twins."""
    start = finished(recipe("sft", seed, sources="personal", eval_every=250))
    run = start if arm == "sft" else finished(tuned(start, arm, seed))
    figures = part(f"outlook-{run.name}-{CASES}-words", partial(tastes, run))
    if arm == "sft":
        return figures | flatness(run)
    return figures | {"curves": {k: run.metrics[k].round(4).tolist() for k in ("gold", "kl")}}


def tuned(start: Run, arm: str, seed: int) -> PPOConfig:
    """RLOO on customers with a preference."""
    return cast(
        PPOConfig,
        recipe(
            "rloo",
            seed,
            model=start.reference,
            reward_model=None,
            reward=PAID[arm],
            sources="personal",
            share_prompts=True,
            steps=160,
            kl_ctl=0.02,
        ),
    )


def tastes(run: Run) -> dict[str, Any]:
    """Each question under both preferences; also in words for them that nobody trained on."""
    net, tokenizer = loaded(run)
    found: dict[str, Any] = {}
    for which in ("new", "held out"):
        cases = uses.scenarios("personal", CASES, held_out=which == "held out")
        both = [*cases, *map(personal.twin, cases)]
        table = uses.assess("personal", net, tokenizer, both)
        metas, texts = [case.meta() for case in both], table["answer"]
        content = [personal.gold_of_the_shop(m, t) for m, t in zip(metas, texts)]
        solved = table["solved"].astype(float)
        found[which] = {
            "matches": bracketed(solved),
            "by_wording": solved.groupby([case.wording["short"] for case in both]).mean().to_dict(),
            "gold": float(table["gold"].mean()),
            "content": bracketed(content),
            "words": table.groupby([m["preference"] for m in metas])["answer"]
            .apply(lambda own: float(own.str.split().str.len().mean()))
            .to_dict(),
        }
    return found


# --------------------------------------------------------------------------- languages
def speaker(arm: str, seed: int) -> SFTConfig:
    """SFT on the dialogues of an arm: so many of each corpus, in random order."""
    total = sum(n for _, n in ARMS[arm])
    more = {corpus: n + HELD_OUT * n // total for corpus, n in ARMS[arm]}
    dialogues = [d for corpus, n in more.items() for d in drawn(corpus, n, seed)]
    order = np.random.default_rng(seed).permutation(len(dialogues))
    name = arm.replace(" ", "-").replace(",", "")
    words = MANY_WORDS.get(arm, WORDS)
    shuffled = [dialogues[i] for i in order]
    steps, held_out = LONGER.get(arm, LANGUAGE_STEPS), len(dialogues) - total
    return on_file(f"outlook-{name}-{seed}", shuffled, seed, words, held_out, steps)


def on_file(
    name: str,
    dialogues: list[Dialogue],
    seed: int,
    words: int = WORDS,
    held_out: int = 0,
    steps: int = LANGUAGE_STEPS,
) -> SFTConfig:
    """SFT on dialogues of one's own, written beside the runs, of which some are held out."""
    path = identity.root() / "data" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    readers.write([Dialogue(d.messages) for d in dialogues], path)
    return cast(
        SFTConfig,
        recipe(
            "sft",
            seed,
            model=TinyModel(vocab_size=words),
            sources=str(path),
            split=(1, 0, 0),
            records=len(dialogues),
            held_out=held_out,
            eval_every=steps // 6 if held_out else 0,
            steps=steps,
        ),
    )


def drawn(corpus: str, n: int, seed: int) -> list[Dialogue]:
    """The first dialogues of a corpus's stream whose facts are right, so that a fact that a model
    gets wrong was not learnt so; those of both languages are translations."""
    module: Any = corpora.corpus(corpus)
    many: list[Dialogue] = module.demonstrations(2 * n, seed=seed)
    return list(islice((d for d in many if right(module, d)), n))


def right(module: Any, dialogue: Dialogue) -> bool:
    """Whether an answer tells all that was asked for, and nothing that is not so."""
    parts = module.judge(dialogue.meta, dialogue.messages[-1]["content"]).parts
    return parts["facts"] == 2 and not (parts["invented"] or parts["leak"])


def speaking(arm: str, seed: int) -> dict[str, Any]:
    """Facts and gold of greedy answers, asked in both languages."""
    run = finished(speaker(arm, seed))
    return part(f"outlook-{run.name}-{CASES}-product", partial(heard, run)) | flatness(run)


def heard(run: Run) -> dict[str, Any]:
    """One model, asked in Chinese and in English, new prompts and held-out words."""
    net, tokenizer = loaded(run)
    found: dict[str, Any] = {}
    for language, corpus in (("in Chinese", "shop-zh"), ("in English", "shop")):
        for which in ("new", "held out"):
            cases = uses.scenarios(corpus, CASES, held_out=which == "held out")
            table = uses.assess(corpus, net, tokenizer, cases, temperature=0.0)
            facts = pd.DataFrame(table["parts"].tolist())["facts"] / 2
            needs = np.array(["product" in shop.REQUIRED[case.intent] for case in cases])
            found[f"{language}, {which}"] = {
                "facts": bracketed(facts),
                "with a product": bracketed(facts[needs]),
                "without": bracketed(facts[~needs]),
                "gold": bracketed(table["gold"]),
                "answers": table["answer"][:2].tolist(),
            }
    return found


# --------------------------------------------------------------------------- alignment
def aligned(seed: int) -> dict[str, Any]:
    """A translator's heads: the best one on some sentences, judged on others."""
    pairs = [(("user", other), ("assistant", en)) for en, other in chinese.pairs(PAIRS, seed=seed)]
    turns = [[{"role": role, "content": text} for role, text in pair] for pair in pairs]
    run = finished(on_file(f"outlook-translations-{seed}", list(map(Dialogue, turns)), seed))
    return part(f"outlook-{run.name}-{KEPT_PAIRS}-facts", partial(attended, run))


def attended(run: Run) -> dict[str, Any]:
    """Share of numbers and days on which a head looks most while their translation is written."""
    net, tokenizer = loaded(run)
    net.set_attn_implementation("eager")
    fresh = islice(chinese.pairs(2 * KEPT_PAIRS, seed=1000), 2 * KEPT_PAIRS)
    known = [(other, english, facts_of(english)) for english, other in fresh]
    linked = [
        alignment.linked(net, tokenizer, [{"role": "user", "content": other}], english, facts)
        for other, english, facts in known
        if facts
    ]
    half = len(linked) // 2
    chosen, judged = alignment.hits(linked[:half]), alignment.hits(linked[half:])
    best = np.unravel_index(chosen.argmax(), chosen.shape)
    return {
        "best": [int(i) for i in best],
        "share": float(judged[best]),
        "heads": judged.round(4).tolist(),
        "chance": alignment.chance(linked[half:]),
        "facts": sum(len(pair.links) for pair in linked[half:]),
        "example": shown(max(linked[half:], key=lambda pair: len(pair.links)), best, tokenizer),
    }


def shown(pair: alignment.Linked, head: Any, tokenizer: Any) -> dict[str, Any]:
    """One sentence as a page shows it: what a head looks at while each token is predicted."""
    layer, of_layer = map(int, head)
    text = [tokenizer.convert_tokens_to_string([piece]) for piece in pair.tokens]
    looks = pair.attention[layer, of_layer, pair.prompt - 1 : -1, : pair.prompt]
    return {"tokens": text, "prompt": pair.prompt, "attention": looks.numpy().round(3).tolist()}


def facts_of(english: str) -> list[tuple[str, str]]:
    """(in Chinese, in English) of the numbers and days of an English sentence, once each."""
    said = shop.mentions(english)
    numbers = [(n, n) for n in dict.fromkeys(said["number"])]
    return numbers + [(chinese.word("day", d), d) for d in dict.fromkeys(said["day"])]


# ---------------------------------------------------------------------------- pictures
def looking(seed: int) -> dict[str, Any]:
    """Colour and thing named from a picture's tokens, of held-out pairs and of a blank picture."""
    run = finished(recipe("sft", seed, sources="pictures", eval_every=250))
    return part(f"outlook-{run.name}-{CASES}-refuses", partial(looked, run)) | flatness(run)


def looked(run: Run) -> dict[str, Any]:
    """Greedy answers to new pictures, to held-out pairs, and with the picture taken away."""
    net, tokenizer = loaded(run)
    kept = uses.scenarios("pictures", CASES, held_out=True)
    blank = [pictures.with_picture(case, drawing.blank()) for case in kept]
    found: dict[str, Any] = {}
    on = {"new": uses.scenarios("pictures", CASES), "held-out pairs": kept, "blank": blank}
    for which, cases in on.items():
        table = uses.assess("pictures", net, tokenizer, cases, temperature=0.0)
        found[which] = {kind: named(cases, table["answer"], kind) for kind in ("colour", "product")}
        refuses = table["answer"].str.contains(shop.REFUSAL)
        found[which] |= {"refuses": float(refuses.mean()), "answers": table["answer"][:2].tolist()}
    return found | {"chance": {"colour": 1 / len(COLOURS), "product": 1 / len(SHAPES)}}


def named(cases: list[Any], answers: Any, kind: str) -> dict[str, float]:
    """Share of the questions about a colour or a product to which the right one alone is named."""
    pairs = [(c, t) for c, t in zip(cases, answers) if kind in pictures.REQUIRED[c.task]]
    right = [pictures.mentions(text)[kind] == {case.meta()[kind]} for case, text in pairs]
    return bracketed(np.array(right, dtype=float))
