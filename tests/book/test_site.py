"""The rendered book in Chromium, from disk and without a network: every page, in four views."""

import pytest
import views
from chromium import needed

from chatlib.book import pages

pytestmark = [pytest.mark.book, pytest.mark.timeout(1200)]
WRITTEN = ("genindex", "prf-prf", "py-modindex", "search")  # by Sphinx
PAGES = [*pages.in_order(), *WRITTEN]


@pytest.fixture(scope="module")
def seen(html):
    """What is wrong with each page, by check."""
    needed()
    return views.look_at(html, PAGES)


def test_no_page_is_left_out(html):
    assert {path.stem for path in html.glob("*.html")} == set(PAGES)


@pytest.mark.parametrize("check", views.CHECKS)
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_wrong_with(page, check, seen):
    wrong = seen[page][check]
    assert not wrong, f"{page}, {check}:\n" + "\n".join(wrong)


def test_the_search_finds_gae_in_the_dark(chromium, html):
    """By keyboard, from the front page; the first page found is opened."""
    wrong = {check: [] for check in views.CHECKS}
    with views.opened(chromium, html / "index.html", wrong, scheme="dark") as page:
        assert page.evaluate("look.follows('dark')")
        page.keyboard.press("Control+k")
        page.keyboard.type("GAE")
        page.keyboard.press("Enter")
        results = page.locator("#search-results li a")
        results.first.wait_for()
        page.wait_for_function("!document.querySelector('#search-progress')?.textContent.trim()")
        found = results.evaluate_all("(links) => links.map((link) => link.href)")
        assert any("/05_ppo.html" in link for link in found), found
        assert not views.broken(found)
        results.first.click()
        page.locator("article").wait_for()
    assert not any(wrong.values()), wrong


# --- that each check finds what it is for

SOUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Planted</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>@media (prefers-color-scheme: dark) {{
body {{ background: #111; color: #eee }} a {{ color: inherit }} }}</style></head>
<body><main><h1 id="top">Planted</h1><p>Nothing is wrong. <a href="#top">Up</a></p>
<img src="dot.svg" alt="a dot"><pre><span>one</span> <span>two</span></pre>
{planted}</main></body></html>
"""
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
DARK = "@media (prefers-color-scheme: dark)"
PLANTED = {
    "console, said": ("console", "<script>console.error('broken')</script>", "broken"),
    "console, thrown": ("console", "<script>missing()</script>", "missing is not defined"),
    "network": ("requests", "<script src='https://example.org/a.js'></script>", "on the network"),
    "network, later": (
        "requests",
        "<script>fetch('https://example.org/data').catch(() => 0)</script>",
        "https://example.org/data is on the network",
    ),
    "script": ("requests", "<script src='missing.js'></script>", "could not be loaded"),
    "wide box": (
        "overflow",
        "<div id='wide' style='width:500px;height:9px'></div>",
        "light, 360 pixels: <div#wide>",
    ),
    "wide box that is cut off": (
        "overflow",
        "<style>html {overflow-x: hidden}</style><p style='width:500px'>end</p>",
        "dark, 360 pixels: <p>",
    ),
    "formula without MathJax": ("formulas", "<span class='math'>x</span>", "is not rendered"),
    "formula as text": ("formulas", r"<p>the value \(x^2\)</p>", "shows TeX as text"),
    "formula with an error": (
        "formulas",
        "<mjx-container><mjx-merror>no such command</mjx-merror></mjx-container>",
        "no such command",
    ),
    "page that is not there": ("links", "<a href='no.html'>on</a>", "leads to no file"),
    "place that is not there": ("links", "<a href='#no'>on</a>", "leads to no place"),
    "picture": ("images", "<img src='no.svg' alt='a square'>", "no.svg is no picture"),
    "picture without words": ("access", "<img src='dot.svg'>", "image-alt: "),
    "pale text": ("access", "<p style='color:#999'>pale</p>", "light, 360 pixels: color-contrast"),
    "pale text in the dark": (
        "access",
        f"<style>{DARK} {{ .low {{ color: #444 }} }}</style><p class='low'>pale</p>",
        "dark, 1400 pixels: color-contrast",
    ),
    "pale code among other code": (
        "access",
        "<pre><span>one</span> <span>two</span> <span class='pale'>:</span>"
        " <span class='pale'>pale</span></pre><style>.pale {color: #999}</style>",
        "color-contrast",
    ),
    "pale text in what is folded": (
        "access",
        "<details><summary>more</summary><p style='color:#999'>pale</p></details>",
        "color-contrast",
    ),
    "button that is called otherwise": (
        "access",
        "<button aria-label='Find'>Search</button>",
        "label-content-name-mismatch",
    ),
    "role that ARIA has given up": (
        "access",
        "<div role='doc-biblioentry'>a book</div>",
        "aria-deprecated-role",
    ),
}


def plant(folder, planted=""):
    """A page that is sound but for what is planted."""
    (folder / "dot.svg").write_text(DOT)
    (folder / "page.html").write_text(SOUND.format(planted=planted))
    return folder / "page.html"


def test_a_sound_page_is_found_sound(chromium, tmp_path):
    assert not any(views.seen(chromium, plant(tmp_path)).values())


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found_by_its_check_alone(chromium, tmp_path, what):
    check, planted, said = PLANTED[what]
    wrong = views.seen(chromium, plant(tmp_path, planted))
    assert any(said in sentence for sentence in wrong[check]), wrong
    assert [other for other in views.CHECKS if wrong[other]] == [check], wrong
