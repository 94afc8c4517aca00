"""The rendered book: built without a warning, complete, and readable without a network."""

import re

import pytest
from bs4 import BeautifulSoup

from chatlib.book import pages

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def soups(html):
    """The parsed page by name, for every page of the contents."""
    return {
        name: BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "lxml")
        for name in pages.in_order()
    }


def test_every_page_links_to_every_other(soups):
    for name, soup in soups.items():
        links = {link["href"].split("#")[0] for link in soup.select("nav a[href]")}
        absent = {f"{page}.html" for page in pages.in_order() if page != name} - links
        assert not absent, f"{name} does not lead to {absent}"


def test_internal_links_lead_somewhere(html, soups):
    for name, soup in soups.items():
        for link in soup.select("a[href]"):
            href = link["href"]
            if re.match(r"[a-z]+:", href):
                continue
            file, _, anchor = href.partition("#")
            target = soups.get(file.removesuffix(".html")) if file else soup
            assert (html / file).exists(), f"{name}: {href}"
            if anchor and target:
                assert target.find(id=anchor), f"{name}: {href}"


def test_nothing_is_loaded_from_the_network(soups):
    for name, soup in soups.items():
        loaded = [tag.get("src") or "" for tag in soup.select("script, img, iframe")]
        loaded += [tag["href"] for tag in soup.select("link[href]")]
        far = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert not far, f"{name}: {far}"


def test_every_script_style_and_picture_is_there(html, soups):
    for name, soup in soups.items():
        loaded = [tag["src"] for tag in soup.select("script[src], img[src]")]
        loaded += [tag["href"] for tag in soup.select("link[rel=stylesheet]")]
        for address in loaded:
            if not address.startswith("data:"):
                assert (html / address.split("?")[0]).is_file(), f"{name}: {address}"


def test_the_fonts_of_the_formulas_are_there(html):
    fonts = html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2"
    assert len(list(fonts.glob("*.woff"))) > 20


def test_a_chapter_has_the_number_of_its_file(soups):
    """In its title, its sections, its figures and its equations, though a file may be missing."""
    for name, soup in soups.items():
        if not re.match(r"\d\d_", name):  # a reference page, not numbered
            continue
        numbers = soup.select("article .section-number, article .caption-number, article .eqno")
        texts = [re.search(r"\d+", one.get_text()) for one in numbers]
        assert len(texts) > 5 and {int(one[0]) for one in texts if one} == {int(name[:2])}, name
        side = soup.select_one("nav .current a.current")
        assert side is not None and side.get_text().strip().startswith(f"{int(name[:2])}. "), name


def test_every_picture_has_an_alternative_text(soups):
    for name, soup in soups.items():
        for picture in soup.select("article img"):
            text = picture.get("alt", "")
            assert len(text) > 20 and "_images/" not in text, f"{name}: {picture.get('src')}"


def test_no_markup_is_left_unrendered(soups):
    for name, soup in soups.items():
        for block in soup.select("article pre, article code, article script"):
            block.decompose()
        text = soup.select_one("article").get_text()
        assert not re.search(r"\{(eq|ref|cite|numref|prf:ref|glue)[:a-z]*\}`", text), name
        assert ":::" not in text and "```" not in text, name


def test_tables_that_cells_write_are_tables(soups):
    for name, head in {"index": "minutes to read", "10_alternatives": "launches took"}.items():
        heads = [cell.get_text(strip=True) for cell in soups[name].select("table th")]
        assert head in heads, f"{name} shows the table with {head!r} as text"
