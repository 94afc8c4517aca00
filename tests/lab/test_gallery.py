"""The page of answers: what it says is the judge's, and nothing of an answer becomes markup."""

import re
from html.parser import HTMLParser

import pytest

from chatlib.data import shop
from chatlib.evaluate import errors
from chatlib.lab import gallery


class Page(HTMLParser):
    """Rows with their data, cells and addresses, ids, and every tag met."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.ids, self.tags, self.links, self._cell = [], [], set(), [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        if tag == "tr" and "id" in found:
            self.rows.append({"data": found, "cells": []})
        if tag == "td":
            self.rows[-1]["cells"].append("")
        self._cell = self._cell or tag == "td"

    def handle_endtag(self, tag):
        self._cell = self._cell and tag != "td"

    def handle_data(self, data):
        if self._cell:
            self.rows[-1]["cells"][-1] += data


EVIL = "<script>alert(1)</script> & <b>bold</b>."


@pytest.fixture(scope="module")
def figures():
    asked = gallery.cases()
    good = [shop.demonstrations(1, seed=i)[0].answer for i in range(len(asked))]
    prompts = [case.messages() for case in asked]
    return {"prompts": prompts, "answers": {"Good & co": good, "evil": [EVIL] * len(asked)}}


def test_every_answer_stands_there_with_its_gold_and_its_errors(figures):
    shown, asked = gallery.gallery(figures), gallery.cases()
    rows = Page(shown._repr_html_()).rows
    assert len(rows) == shown.answers == 200
    for i, case in enumerate(asked):
        for row, (name, texts) in zip(rows[2 * i : 2 * i + 2], figures["answers"].items()):
            verdict = errors.judged([case.meta()], [texts[i]])
            wrong = errors.errors(verdict).iloc[0]
            cells = row["cells"]
            assert cells[:3] == [name, texts[i], f"{verdict['gold'][0]:.2f}"]
            told = {k: float(v) for k, v in re.findall(r"(\w+) ([+-][\d.]+)", cells[3])}
            assert sum(told.values()) == pytest.approx(verdict["gold"][0], abs=1e-3)
            expected = {gallery._slug(k) for k, there in wrong.items() if there} or {"no-error"}
            assert set(row["data"]["data-error"].split()) == expected


def test_an_answer_is_text_and_never_markup(figures):
    page = Page(gallery.gallery(figures)._repr_html_())
    assert "script" not in page.tags
    assert any(row["cells"][1] == EVIL for row in page.rows)


def test_every_address_is_there_once_and_every_filter_has_its_rule(figures):
    text = gallery.gallery(figures)._repr_html_()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    ruled = re.findall(r":has\(#([\w-]+):checked\)", text)
    buttons = [i for i in page.ids if not i.startswith(("answer-", "prompt-"))]
    buttons += ["prompt-new", "prompt-words-never-seen"]
    assert sorted(ruled) == sorted(buttons)


def test_half_of_the_prompts_use_words_that_nobody_trained_on():
    asked = gallery.cases()
    assert len(asked) == gallery.PROMPTS
    names = {case.customer for case in asked[50:]}
    assert names <= set(shop.HELD_OUT_NAMES) and not names & set(shop.NAMES)


def test_answers_to_other_prompts_are_refused(figures):
    with pytest.raises(ValueError, match="run `make results answers`"):
        gallery.gallery(figures | {"prompts": figures["prompts"][1:]})
