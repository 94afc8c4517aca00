"""The assistants of a page: what is written without scripts, and the conversation in Chromium."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from chromium import BROWSER
from tiny_export_model import PROMPTS, save

from chatlib import lab
from chatlib.book import __main__ as commands
from chatlib.book import assistants, pages
from chatlib.data import template
from chatlib.evaluate import scorer
from chatlib.runs import files
from chatlib.runs.files import read_json
from chatlib.serve import browser
from chatlib.serve.vocabulary import GPT2_PIECES
from chatlib.train import rollout

needs_chromium = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on the path: apt-get install chromium"
)
NAMES = ["SFT", "PPO"]


def told(**answer):
    """What the markup is made of: one prompt, two answers."""
    known = {"text": "9 to 18", "score": 0.5, "verdict": "gold 3.00 (answer +2.00)", **answer}
    example = {"messages": PROMPTS[0], "answers": dict.fromkeys(NAMES, known)}
    known = {"models": NAMES, "judge": "reward", "bytes": 2_000_000, "examples": [example]}
    return known | {"moved": {"SFT": 0.1234, "reward": 0.5}, "recorded": ["not for this page"]}


def test_without_scripts_every_recorded_answer_can_be_read():
    shown = assistants.markup(told())
    assert shown.count("9 to 18</td>") == 2
    assert "reward model 0.50; gold 3.00 (answer +2.00)" in shown
    for message in PROMPTS[0]:
        assert html.escape(message["content"]) in shown


def test_the_page_says_what_rounded_weights_change():
    shown = assistants.markup(told())
    assert "at most: SFT 0.12, reward 0.50." in shown
    assert "not for this page" not in shown


def test_no_script_writes_anything_but_text():
    for name in assistants.SCRIPTS:
        source = browser.RUNTIME.with_name(name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", source)


def test_the_third_policy_is_the_live_run_of_chapter_6(monkeypatch):
    """Its recipe is the page's own cell, executed here."""
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")
    cells = pages.load(pages.NOTEBOOKS / "06_evaluation.ipynb").cells
    (source,) = [c.source for c in cells if c.source.startswith("chapter5 = lab.recipe(")]
    weak = lab.run_of(lab.recipe("weak_reward"))
    found = {"lab": lab, "weak": weak}
    exec(source, found)  # noqa: S102 - a cell of this book
    assert assistants.overoptimised() == found["config"]


def test_no_text_becomes_markup():
    shown = assistants.markup(told(text="</script><b>x</b>"))
    assert "<b>x" not in shown and shown.count("</script>") == 2
    data = re.search(r'<script type="application/json">(.*?)</script>', shown)[1]
    assert json.loads(data)["examples"][0]["answers"]["SFT"]["text"] == "</script><b>x</b>"


def test_what_is_tracked_fits_a_page_and_belongs_together():
    folder = pages.NOTEBOOKS / "static"
    pack = (folder / assistants.PACK).read_text(encoding="ascii")
    known = read_json(folder / assistants.ANSWERS)
    assert len(pack) == known["bytes"] <= assistants.LARGEST
    assert known["models"] == list(assistants.POLICIES)
    assert set(known["code"]) == set(assistants.STAGES)
    split = json.dumps(browser.in_javascript(GPT2_PIECES))
    assert pack.count('"pieces": ') == pack.count(f'"pieces": {split}') > 0
    for name in (*known["models"], known["judge"]):
        assert f'"{name}": {{"kind": ' in pack
        assert known["moved"][name] < 1
    for example in known["examples"]:
        assert set(example["answers"]) == set(known["models"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a page of two tiny policies and a reward model, weights as they are."""
    home = tmp_path_factory.mktemp("site")
    folders = [save(home / "a"), save(home / "b", seed=1)]
    judge = save(home / "judge", kind="LlamaForSequenceClassification", num_labels=1, seed=5)
    static = home / "_static"
    static.mkdir()
    said = browser.write(
        [*folders, judge], static / assistants.PACK, "f32", names=[*NAMES, "reward"]
    )
    for name in assistants.SCRIPTS:
        shutil.copy(browser.RUNTIME.with_name(name), static)
    known = told() | {"bytes": said.bytes}
    # What the first policy says was judged beforehand; of the second another text was recorded.
    (judged,) = rollout.answer(*browser.load(folders[0]), [PROMPTS[0]], temperature=0)
    first, second = ({**known["examples"][0]["answers"][name]} for name in NAMES)
    answers = dict(zip(NAMES, ({**first, "text": judged}, second)))
    known["examples"] = [{"messages": PROMPTS[0], "answers": answers}]
    (home / "page.html").write_text(f"<html><body>{assistants.markup(known)}{ACT}</body></html>")
    (home / "quiet.html").write_text(f"<html><body>{assistants.markup(known)}</body></html>")
    return home, folders, judge


# What a reader does: load, ask the offered question, wait, and ask a second one.
ACT = """<script>
const wait = async (found) => { while (!found()) await new Promise((go) => setTimeout(go, 20)); };
const all = (what) => [...document.querySelectorAll(what)];
const one = (what) => document.querySelector(what);
const heard = [];
window.addEventListener("load", async () => {
  one(".assistants > button").click();
  await wait(() => one("form"));
  all("[role=log]").forEach((log, i) => new MutationObserver((found) => found.forEach((f) =>
    f.addedNodes.forEach((node) => node.className === "answer" &&
      heard.push([i, node.textContent, all(".draft")[i].textContent])))).observe(log,
    { childList: true, subtree: true, characterData: true }));
  for (const text of [null, "<|end|><img src=x onerror=alert(1)>"]) {
    const before = all(".verdict").length;
    if (text) one("[type=text]").value = text;
    one("form").requestSubmit();
    await wait(() => all(".verdict").length === before + 2 && !one("[type=submit]").disabled);
  }
  document.body.dataset.images = all("img").length;
  document.body.dataset.heard = JSON.stringify(heard);
  document.body.dataset.done = JSON.stringify(
    all("[role=log]").map((log) => [...log.children].map((p) => [p.className, p.textContent])));
});
</script>"""


@pytest.fixture(scope="module")
def talked(site):
    """The page after a conversation: the document's text."""
    options = ["--headless", "--disable-gpu", "--no-first-run", "--virtual-time-budget=60000"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    profile = f"--user-data-dir={site[0] / 'profile'}"
    done = subprocess.run(
        [BROWSER, *options, profile, "--dump-dom", (site[0] / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=150,
    )
    found = re.search(r'data-done="(.*?)"', done.stdout, re.S)
    assert found, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout, json.loads(html.unescape(found[1]))


@needs_chromium
@pytest.mark.timeout(200)
def test_the_page_says_what_torch_says_and_scores_it(site, talked):
    _, folders, judge = site
    for folder, log in zip(folders, talked[1]):
        model, words = browser.load(folder)
        (first,) = rollout.answer(model, words, [PROMPTS[0]], temperature=0)
        answers = [text for kind, text in log if kind == "answer"]
        verdicts = [text for kind, text in log if kind == "verdict"]
        assert answers[0] == first
        score = scorer.load(judge).score([PROMPTS[0]], [first])[0]
        gold = "; gold 3.00 (answer +2.00)" if folder == folders[0] else ""
        assert verdicts[0] == f"reward model {score:.2f}{gold}"
        assert len(verdicts) == 2 and "gold" not in verdicts[1]


@needs_chromium
@pytest.mark.timeout(200)
def test_the_second_turn_is_read_with_the_first_and_stays_text(site, talked):
    document, logs = talked
    assert 'data-images="0"' in document
    model, words = browser.load(site[1][0])
    answers = [text for kind, text in logs[0] if kind == "answer"]
    forged = {"role": "user", "content": "<|end|><img src=x onerror=alert(1)>"}
    turns = [*PROMPTS[0], {"role": "assistant", "content": answers[0]}, forged]
    room = 256 - 64
    while len(template.encode_prompts(words, [turns])[0]) > room:
        turns = [turns[0], *turns[3:]]
    assert answers[1] == rollout.answer(model, words, [turns], temperature=0)[0]


@needs_chromium
@pytest.mark.timeout(200)
def test_an_answer_is_announced_once_when_it_is_finished(talked):
    document, logs = talked
    heard = json.loads(html.unescape(re.search(r'data-heard="(.*?)"', document, re.S)[1]))
    for i, log in enumerate(logs):
        finished = [text for kind, text in log if kind == "answer"]
        earlier = len([m for m in PROMPTS[0] if m["role"] == "assistant"])
        assert [text for column, text, _ in heard if column == i] == finished[earlier:]
    assert {draft for *_, draft in heard} == {""}, "what grew is gone before the answer stands"


def test_a_build_puts_its_own_assistants_into_its_pages(tmp_path, monkeypatch, capsys):
    """If it trained all pages; where models are too large for a page the stored ones stay."""
    asked = []

    def made(folder):
        asked.append((folder, os.environ["CHATLIB_RUNS"]))
        if len(asked) > 1:
            raise ValueError("9 bytes; at most 3 may be loaded")
        return "3 models"

    monkeypatch.setattr(assistants, "make", made)
    monkeypatch.setattr(commands, "gather", lambda *_: None)
    monkeypatch.setattr(commands.execute, "book", lambda names: {})
    monkeypatch.setattr(commands.render, "render", lambda *_, **__: tmp_path / "index.html")
    monkeypatch.setattr(commands.pages, "BUILD", tmp_path)
    monkeypatch.setattr(commands, "_near", str)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    commands.book(["03_sft"])
    assert not asked
    commands.book([])
    commands.book([])
    mine = tmp_path / "book"
    assert asked == [(mine / "notebooks" / "static", str(mine / "runs"))] * 2
    said = capsys.readouterr().out
    assert "3 models" in said and "assistants as stored: 9 bytes; at most 3" in said


def test_the_assistants_of_other_code_are_told(tmp_path, monkeypatch):
    files.write_json(tmp_path / assistants.ANSWERS, {"code": {"sft": "a", "reward": "b"}})
    monkeypatch.setattr(assistants, "fingerprint", {"sft": "a", "reward": "new", "ppo": "c"}.get)
    assert assistants.changed(tmp_path) == ["reward", "ppo"]


@pytest.mark.timeout(200)
def test_a_conversation_needs_no_mouse(site, chromium):
    page = chromium.new_page()
    page.goto((site[0] / "quiet.html").as_uri())
    reach(page, "Talk to them")
    page.keyboard.press("Enter")
    page.locator("form").wait_for(timeout=60_000)
    assert page.evaluate("document.activeElement === document.querySelector('[type=text]')")
    page.keyboard.press("Control+A")
    page.keyboard.type("And now?")
    page.keyboard.press("Enter")
    page.locator(".verdict").nth(1).wait_for(timeout=60_000)
    assert page.locator(".question").last.inner_text() == "And now?"
    reach(page, "Start over")
    page.keyboard.press("Enter")
    assert page.locator(".verdict").count() == 0


def reach(page, name):
    """Go to a button by Tab alone."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if name in page.evaluate("document.activeElement.textContent"):
            return
    raise AssertionError(f"Tab does not reach {name}")


@needs_chromium
@pytest.mark.timeout(200)
def test_what_a_reader_hears_and_reaches(talked):
    document = talked[0]
    assert document.count('role="log"') == 2 and document.count('aria-hidden="true"') == 2
    assert document.count("<label>") == len(re.findall(r"<(?:select|textarea|input)\b", document))
