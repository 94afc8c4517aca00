"""Pages as readers see them: opened in Chromium from disk, light and dark, wide and narrow."""

import contextlib
import functools
import html
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from chromium import driven

CHECKS = ("console", "requests", "overflow", "formulas", "links", "images", "access")
# In this order one thing changes at a time. The page is as it was written in the first two: then
# it is thinned out for axe. What no colour changes is not asked again in the dark.
PLAIN = {
    "light, 1400 pixels": ("overflow", "formulas", "images"),
    "light, 360 pixels": ("overflow",),
}
THINNED = {
    "light, 360 pixels": ("structure", "colours"),
    "light, 1400 pixels": ("structure", "colours"),
    "dark, 1400 pixels": ("overflow", "images", "colours"),
    "dark, 360 pixels": ("overflow", "colours"),
}
CHECK_OF = {"structure": "access", "colours": "access"}
LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")
LOCAL = ("file:", "data:", "blob:")
SECONDS = 120  # for a page, where the machine does something else too


def look_at(folder, names):
    """What is wrong with each page of a folder: sentences by page and check."""
    with ThreadPoolExecutor(2) as pool:  # two browsers, as there are two cores
        shares = pool.map(functools.partial(_share, folder), (names[::2], names[1::2]))
        return {name: wrong for share in shares for name, wrong in share.items()}


def _share(folder, names):
    with driven() as browser:
        return {name: seen(browser, folder / f"{name}.html") for name in names}


def seen(browser, path):
    """What is wrong with one page, by check; a sentence begins with its view."""
    wrong = {check: [] for check in CHECKS}
    with opened(browser, path, wrong) as page:
        page.evaluate("look.unfold()")
        wrong["links"] += broken(page.evaluate("look.links()"))
        in_all_views(page, wrong)
    return wrong


def in_all_views(page, wrong):
    """Ask an open page in every view; axe gets it thinned out."""
    in_views(page, PLAIN, wrong)
    page.evaluate("look.thin()")
    page.evaluate(AXE_SCRIPT)
    in_views(page, THINNED, wrong)


@contextlib.contextmanager
def opened(browser, path, wrong, scheme="light"):
    """A page, drawn, with the network cut; what it says and asks for meanwhile goes to `wrong`."""
    context = browser.new_context(offline=True, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    listen(page, wrong)
    page.goto(path.as_uri())
    page.evaluate("globalThis.MathJax?.startup?.promise")
    page.evaluate(LOOK)
    yield page
    context.close()


def listen(page, wrong):
    """Note errors, and every request that asks the network or finds no file."""

    def said(message):
        # That a file is missing is told below, with its name.
        if message.type == "error" and "Failed to load resource" not in message.text:
            wrong["console"].append(message.text)

    def failed(request):
        check = "images" if request.resource_type == "image" else "requests"
        wrong[check].append(f"{request.url} could not be loaded")

    def asked(request):
        if not request.url.startswith(LOCAL):
            wrong["requests"].append(f"{request.url} is on the network")

    page.on("console", said)
    page.on("pageerror", lambda error: wrong["console"].append(str(error)))
    page.on("request", asked)
    page.on("requestfailed", failed)


def in_views(page, views, wrong):
    """Turn the page to each view and ask what the view asks."""
    for view, questions in views.items():
        scheme, width = re.match(r"(\w+), (\d+)", view).groups()
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": int(width), "height": 800})
        frame(page)
        if not page.evaluate(f"look.follows('{scheme}')"):
            wrong["access"].append(f"{view}: the theme is another")
        for question in questions:
            found = page.evaluate(f"look.{question}()") and again(page, question)
            wrong[CHECK_OF.get(question, question)] += [f"{view}: {one}" for one in found]


def frame(page):
    """Have a frame drawn: a page hears of a new size or theme in one, and a window that nobody
    sees gets none by itself where the machine is busy."""
    page.screenshot(clip={"x": 0, "y": 0, "width": 8, "height": 8}, animations="allow")
    page.evaluate("look.drawn()")


def again(page, question):
    """What is still wrong when the page has come to rest: its own scripts wait 300 ms."""
    page.evaluate("look.rest()")
    frame(page)
    return page.evaluate(f"look.{question}()")


# --- links


def broken(links):
    """The links to files that are not there, or to places that their page has not."""
    found = []
    for link in sorted(set(links)):
        parts = urlsplit(link)
        target, place = Path(unquote(parts.path)), unquote(parts.fragment)
        if parts.scheme != "file":
            continue
        if not target.is_file():
            found.append(f"{link} leads to no file")
        elif place and target.suffix == ".html" and place not in places(target):
            found.append(f"{link} leads to no place of its page")
    return found


@functools.cache
def places(path):
    """What a link into a page can name."""
    text = path.read_text(encoding="utf-8")
    return {html.unescape(one) for one in re.findall(r'\s(?:id|name)="([^"]*)"', text)}
