"""The token microscope: what is written without scripts, and what its lens shows in Chromium."""

import html
import json
import re
import shutil

import pytest
import torch
from tiny_export_model import PROMPTS, finished_ppo, save

from chatlib.book import assistants, microscope, pages
from chatlib.data import template
from chatlib.evaluate import lens
from chatlib.maths.likelihood import log_softmax
from chatlib.runs.files import read_json
from chatlib.serve import browser
from chatlib.train import rollout

pytestmark = pytest.mark.timeout(240)
WORDS = ["Dear", " <b>Ada</b>", "</script>", "<|end|>"]
NUMBERS = [name for name, *_ in microscope.COLUMNS if name != "clipped"]


def told():
    """What the markup is made of: one recorded answer, its figures all different."""
    tokens = {"text": WORDS, "clipped": [False, True, False, False]}
    for i, name in enumerate(NUMBERS):
        tokens[name] = [i + t / 10 for t in range(len(WORDS))]
    tokens["others"] = [f"likely{t} 0.500" for t in range(len(WORDS))]
    recorded = [{"messages": PROMPTS[0], "score": 1.25, "tokens": tokens}]
    whole = {"answers": 64, "tokens": 1300, "clipped": 7, "explained_variance": 0.5}
    examples = [{"messages": prompt} for prompt in PROMPTS[:3]]
    models = ["SFT", "PPO"]
    return {
        **{"models": models, "bytes": 2_000_000, "examples": examples, "moved": {"SFT": 0.123}},
        **{"recorded": recorded, "iteration": whole},
    }


def test_without_scripts_every_figure_of_a_recorded_answer_can_be_read():
    shown = microscope.markup(told())
    rows = re.findall(r"<tr><th scope='row'>(.*?)</th>(.*?)</tr>", shown)
    assert [html.unescape(token) for token, _ in rows] == [word.strip() for word in WORDS]
    for t, (_, cells) in enumerate(rows):
        found = re.findall(r"<td>(.*?)</td>", cells)
        numbers = [f"{i + t / 10:.2f}" for i in range(len(NUMBERS))]
        assert found == [*numbers, "yes" if t == 1 else ""]
    assert "64 answers of 1300 tokens in all, of which 7 are clipped" in shown
    assert "by at most: SFT 0.12." in shown


def test_no_text_becomes_markup():
    shown = microscope.markup(told())
    assert "<b>Ada" not in shown and shown.count("</script>") == 2
    data = re.search(r'<script type="application/json">(.*?)</script>', shown)[1]
    assert json.loads(data)["recorded"][0]["tokens"]["text"] == WORDS


def test_recorded_are_the_answers_with_the_most_clipped_tokens(tmp_path):
    run = finished_ppo(tmp_path, beta=0.3)
    found = microscope.record(run, answers=8, others=16)
    one = lens.iteration(run, answers=8, others=16)
    whole = [lens.tokens(one, i) for i in range(8)]
    counts = [sum(tokens["clipped"]) for tokens in whole]
    kept = [i for i in range(8) if one.cases[i].messages() in prompts(found)]
    assert len(kept) == len(found["recorded"]) == microscope.RECORDED
    assert min(counts[i] for i in kept) >= max(counts[i] for i in range(8) if i not in kept)
    for i, record in zip(kept, found["recorded"]):
        for name in ("text", "clipped", *NUMBERS):
            assert record["tokens"][name] == whole[i][name]
    assert found["iteration"]["clipped"] == sum(counts) > 0
    assert found["iteration"]["tokens"] == sum(len(tokens["text"]) for tokens in whole)


def prompts(found):
    return [record["messages"] for record in found["recorded"]]


def test_what_is_tracked_is_an_iteration_that_adds_up():
    known = read_json(pages.NOTEBOOKS / "static" / assistants.ANSWERS)
    assert len(known["recorded"]) == microscope.RECORDED
    for one in known["recorded"]:
        tokens = one["tokens"]
        assert {len(column) for column in tokens.values()} == {len(tokens["text"])}
        assert max(tokens["logp"]) <= 0 and min(tokens["kl"]) > -1e-4
        earlier = zip(tokens["reward"][:-1], tokens["logp"], tokens["ref"])
        prices = [paid / (ref - logp) for paid, logp, ref in earlier if abs(ref - logp) > 0.5]
        assert max(prices, default=1) - min(prices, default=1) < 0.01, "one beta for all"


# --- in Chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a page of a recorded answer and two tiny policies, weights as they are."""
    home = tmp_path_factory.mktemp("lens")
    folders = [save(home / "a"), save(home / "b", seed=1)]
    static = home / "_static"
    static.mkdir()
    browser.write(folders, static / assistants.PACK, "f32", names=["SFT", "PPO"])
    for name in ("runtime.js", "microscope.js"):
        shutil.copy(browser.RUNTIME.with_name(name), static)
    head = "<!doctype html><html lang='en'><head><title>lens</title></head>"
    (home / "page.html").write_text(f"{head}<body>{microscope.markup(told())}</body></html>")
    return home, folders


@pytest.fixture
def page(chromium, site):
    """The page, opened from its file; at the end nothing may have failed or come from elsewhere."""
    context, wrong = chromium.new_context(viewport={"width": 360, "height": 740}), []
    opened = context.new_page()
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda r: r.url.startswith(site[0].as_uri()) or wrong.append(r.url))
    opened.goto((site[0] / "page.html").as_uri())
    opened.locator(".tokens button").first.wait_for(timeout=60_000)
    yield opened
    context.close()
    assert not wrong


def panel(page):
    """The figures under the lens, by their names."""
    rows = page.locator(".microscope table tbody tr").all()
    return {r.locator("th").inner_text(): r.locator("td").inner_text() for r in rows}


def test_tab_and_arrows_reach_every_token(page):
    assert page.locator(".tokens button").all_text_contents() == WORDS
    assert page.locator(".microscope b, .microscope img").count() == 0
    page.get_by_label("Shade by").focus()
    for t, word in enumerate(WORDS):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == word
        figures = panel(page)
        for i, (name, _, long) in enumerate(microscope.COLUMNS):
            expected = ("yes" if t == 1 else "no") if name == "clipped" else f"{i + t / 10:.3f}"
            assert figures[long] == expected
        assert figures["likeliest others, with probability"] == f"likely{t} 0.500"
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(style) != "none", "the focus can be seen"
    for key, word in {"Home": 0, "ArrowRight": 1, "End": 3, "ArrowLeft": 2}.items():
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == WORDS[word]


def test_hovering_looks_at_a_token_and_the_shade_follows_the_choice(page):
    page.locator(".tokens button").nth(2).hover()
    assert page.locator(".microscope caption").inner_text() == "Token 3 of 4: </script>"
    page.get_by_label("Shade by").select_option("logp")
    share = "node => getComputedStyle(node).getPropertyValue('--share')"
    shares = [float(node.evaluate(share)) for node in page.locator(".tokens button").all()]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_drawn_answer_is_read_as_torch_reads_it_and_announced_once(page, site):
    page.evaluate(
        """() => {
            window.heard = [];
            new MutationObserver(() => heard.push(document.querySelector("[role=status]")
                .textContent)).observe(document.querySelector("[role=status]"), {childList: true});
        }"""
    )
    page.get_by_role("button", name="Draw answers in this page (2.0 MB)").press("Enter")
    page.get_by_label("The likeliest words").wait_for(timeout=60_000)
    page.get_by_label("The likeliest words").press("Space")
    page.evaluate("heard.length = 0")
    page.get_by_role("button", name="Draw an answer").press("Enter")
    page.locator("[role=status]", has_text="PPO: ").wait_for(timeout=120_000)
    words, logps = as_torch_reads(site[1])
    assert page.locator(".tokens button").count() == len(words)
    (announced,) = [text for text in page.evaluate("heard") if text]
    assert announced == f"PPO: {''.join(words)}; PPO under the lens, SFT beside it"
    names = {name: long for name, _, long in microscope.COLUMNS}
    for t in range(0, len(words), 5):
        page.locator(".tokens button").nth(t).focus()
        figures = panel(page)
        for name, expected in logps[t].items():
            assert float(figures[names[name]]) == pytest.approx(expected, abs=2e-3)
        assert names["reward"] not in figures, "nobody has paid this answer"


def as_torch_reads(folders):
    """The tokens of PPO's greedy answer to the first prompt, and the figures of each."""
    (reference, words), (policy, _) = map(browser.load, folders)
    (prompt,) = template.encode_prompts(words, [PROMPTS[0]])
    stop, pad = words.eos_token_id, words.pad_token_id
    (said,) = rollout.sample(policy, [prompt], 64, stop, pad, temperature=0)
    row = torch.tensor([prompt + said])
    with torch.no_grad():
        p, q = (
            log_softmax(model(row).logits[0, -len(said) - 1 : -1].double())
            for model in (policy, reference)
        )
    figures = [
        {
            "logp": p[t, token].item(),
            "ref": q[t, token].item(),
            "kl": (p[t].exp() * (p[t] - q[t])).sum().item(),
            "entropy": -(p[t].exp() * p[t]).sum().item(),
        }
        for t, token in enumerate(said)
    ]
    texts = [words.decode([token]) for token in said]
    return texts, figures
