"""The page of the server in Chromium: what a person sees, hears and can do by keyboard."""

import re
import subprocess
import sys
import threading

import pytest
from chromium import driven, needed
from served import ORDER, alone, serving

from chatlib.book import pages
from chatlib.serve import chat, desk, server

pytestmark = pytest.mark.timeout(180)
WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def chromium():
    needed()
    with driven() as browser:
        yield browser


@pytest.fixture
def visit(chromium):
    """Opens an address; at the end nothing may have failed, and nobody else been asked."""
    contexts, wrong = [], []

    def open_(where, viewport=WIDE, **options):
        contexts.append(chromium.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: r.url.startswith(where) or wrong.append(f"asked {r.url}"))
        page.goto(where)
        offered(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    # A refusal is a status, which Chromium counts as an error; what the page makes of it is tested.
    assert not [text for text in wrong if "status of 400" not in text]


def wait_until(locator):
    """Waits as a person does, by looking: the page's policy forbids scripts from outside."""
    from playwright.sync_api import expect

    return expect(locator)


def offered(page):
    """Wait until there are models to choose from."""
    page.locator("select option").nth(1).wait_for(state="attached", timeout=30_000)


def ask(page, text):
    """Send a message; wait until all answers are in."""
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    wait_until(page.locator("#stop")).to_be_disabled(timeout=90_000)


def answers(page, number):
    """What the model of a column has said."""
    column = page.locator("section").nth(number - 1)
    return column.locator(".assistant").all_text_contents()


def test_two_models_answer_side_by_side_and_remember(visit, url, assistant, other):
    page = visit(url)
    ask(page, ORDER)
    for number, model in ((1, assistant), (2, other)):
        assert answers(page, number) == [alone(model, ORDER, 64)]
    page.get_by_label("Most tokens").fill("12")
    ask(page, "when")
    talk = chat.Chat(assistant, sampling=chat.Sampling(max_new_tokens=64))
    talk.ask(ORDER)
    talk.messages[1]["content"] = alone(assistant, ORDER, 64)
    talk.sampling = chat.Sampling(max_new_tokens=12)
    assert answers(page, 1)[1] == chat.printable(talk.ask("when"))
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".said p").count() == 0
    ask(page, ORDER)
    assert answers(page, 2) == [alone(other, ORDER)]


def test_an_answer_is_announced_once_when_it_is_finished(visit, url, assistant, other):
    page = visit(url)
    page.get_by_label("Model 2").select_option("none")
    page.get_by_label("Most tokens").fill("12")
    page.evaluate(
        """() => {
            window.heard = [];
            new MutationObserver((found) => found.forEach((f) => f.addedNodes.forEach((node) =>
                heard.push(node.textContent)))).observe(document.getElementById("log"),
                {childList: true, subtree: true, characterData: true});
        }"""
    )
    ask(page, ORDER)
    assert page.locator("#log").get_attribute("aria-live") == "polite"
    said = alone(assistant, ORDER)
    assert page.evaluate("heard") == [f"{assistant.name}: {said}; cut: it was as long as it may be"]
    assert page.locator(".said[aria-live]").count() == 0


def test_escape_stops_and_the_part_is_kept(visit, url, monkeypatch):
    ended = threading.Event()

    def endless(assistant, asked, put):
        put("one ")
        assert asked.stop.wait(60)
        ended.set()

    monkeypatch.setattr(desk, "generate", endless)
    page = visit(url)
    page.get_by_label("Model 2").select_option("none")
    page.get_by_label("Message").fill("count")
    page.keyboard.press("Enter")
    wait_until(page.locator(".assistant")).to_have_text("one ", timeout=30_000)
    assert page.get_by_role("button", name="Send").is_disabled()
    page.keyboard.press("Escape")
    wait_until(page.locator(".note")).to_have_text("(stopped)", timeout=30_000)
    assert ended.wait(30), "the server goes on though the page has left"
    assert answers(page, 1) == ["one "]
    assert page.get_by_role("button", name="Send").is_enabled()


def test_shift_enter_starts_a_line_and_tab_reaches_everything(visit, url):
    page = visit(url)
    page.get_by_label("Message").fill("one")
    page.keyboard.press("End")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.get_by_label("Message").input_value() == "one\ntwo"
    assert page.locator(".said p").count() == 0
    page.get_by_label("Facts").focus()
    reached = []
    for _ in range(9):
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className"
                " || document.activeElement.tagName"
            )
        )
        page.keyboard.press("Tab")
    assert reached == [*"facts temperature tokens SELECT said SELECT said text send".split()]


def test_what_a_model_says_is_never_markup(visit, url, monkeypatch):
    evil = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    monkeypatch.setattr(desk, "generate", lambda assistant, asked, put: put(evil))
    page = visit(url)
    ask(page, "<i>hello</i>")
    assert answers(page, 1) == [evil]
    assert page.locator(".user").first.text_content() == "<i>hello</i>"
    assert page.locator("main img, main b, main i, #log img, #log b").count() == 0
    assert page.title() != "taken"


def test_what_the_server_refuses_is_shown(visit, url):
    page = visit(url)
    page.get_by_label("Most tokens").fill("999")
    ask(page, ORDER)
    note = page.locator(".note").first.text_content()
    assert "`max_tokens` is 999, and this server gives at most 256" in note
    page.get_by_label("Most tokens").fill("12")
    ask(page, ORDER)
    assert len(answers(page, 1)) == 1


def test_turns_that_no_longer_fit_are_told(visit, url):
    page = visit(url)
    page.get_by_label("Most tokens").fill("40")
    for i in range(3):
        ask(page, f"{ORDER} {i}")
    assert "oldest turns left out, as they no longer fit: " in page.locator("main").inner_text()


def test_with_a_key_the_page_asks_for_it(assistant, chromium):
    with serving([assistant], access=server.Access(key="open")) as where:
        page = chromium.new_page()
        page.goto(where)
        page.wait_for_selector(".note")
        assert "the API key is missing or wrong" in page.locator(".note").text_content()
        page.get_by_label("API key").fill("open")
        page.keyboard.press("Tab")
        offered(page)
        assert page.get_by_label("Model 2").input_value() == ""
        ask(page, ORDER)
        assert answers(page, 1) == [alone(assistant, ORDER, 64)]
        page.close()


# What a reader needs to see: the darker of two colours over the lighter (WCAG 2.2, contrast).
CONTRAST = """() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((x) => x / 255)
            .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("h1, label, p, button:enabled, select, input, textarea")]
        .filter((node) => node.offsetParent && node.textContent + node.placeholder)
        .map((node) => {
            const pair = [getComputedStyle(node).color, ground(node)].map(light);
            pair.sort((a, b) => a - b);
            return [node.tagName + "." + node.className, (pair[1] + 0.05) / (pair[0] + 0.05)];
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_is_readable_in_light_and_dark_wide_and_narrow(visit, url, scheme, viewport):
    page = visit(url, viewport, color_scheme=scheme)
    page.get_by_label("Most tokens").fill("12")
    ask(page, f"{ORDER} {'x' * 100}")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.get_by_role("button", name="Send").is_visible()
    found = page.evaluate(CONTRAST)
    assert len(found) > 10
    assert not [(name, ratio) for name, ratio in found if ratio < 4.5]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


# --- without a browser


def test_the_page_needs_nothing_from_elsewhere_and_writes_no_markup():
    text = (pages.ROOT / "chatlib/serve/page.html").read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|@import|\bsrc=|innerHTML|outerHTML|insertAdjacent|eval\(", text
    )


def test_a_wheel_brings_the_page(tmp_path):
    places = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", *places]
    subprocess.run(setup, cwd=pages.ROOT, check=True, capture_output=True, timeout=100)
    assert (tmp_path / "chatlib/serve/page.html").read_text(encoding="utf-8")
