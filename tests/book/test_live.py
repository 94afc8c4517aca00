"""What readers bring to life on the rendered pages, with the models that the book carries."""

import pytest
import views

from chatlib.book import assistants, pages
from chatlib.runs.files import read_json

pytestmark = [pytest.mark.book, pytest.mark.timeout(1200)]
KNOWN = read_json(pages.NOTEBOOKS / "static" / assistants.ANSWERS)


def talk(page):
    """Ask all policies what is offered, and then something that nobody recorded."""
    page.get_by_role("button", name="Talk to them in this page").click()
    page.locator(".assistants form").wait_for()
    answered = page.locator(".assistants .verdict")
    for count, question in enumerate((None, "And when are you open?"), start=1):
        if question:
            page.get_by_label("The message").fill(question)
        page.get_by_role("button", name="Ask", exact=True).click()
        answered.nth(count * len(KNOWN["models"]) - 1).wait_for()
    columns = page.locator(".assistants section").all()
    return [column.locator(".verdict").all_inner_texts() for column in columns]


def draw(page):
    """Have a policy answer in the page under the microscope, and look at a token of it."""
    page.get_by_role("button", name="Draw answers in this page").click()
    page.get_by_label("The likeliest words").check()
    page.get_by_role("button", name="Draw an answer").click()
    page.locator(".microscope [role=status]", has_text="under the lens").wait_for()
    page.locator(".microscope .tokens button").first.focus()
    return page.locator(".microscope table tbody").first.inner_text()


LIVE = {"index": talk, "05_ppo": draw, "08_dialogue": talk}


@pytest.fixture(scope="module", params=LIVE)
def lively(request, chromium, html):
    """A page brought to life, what it showed, and what was wrong in the four views then."""
    wrong = {check: [] for check in views.CHECKS}
    with views.opened(chromium, html / f"{request.param}.html", wrong) as page:
        shown = LIVE[request.param](page)
        views.in_all_views(page, wrong)
    return request.param, shown, wrong


def test_a_live_page_asks_nobody_and_fits_every_view(lively):
    name, _, wrong = lively
    assert not any(wrong.values()), (name, wrong)


def test_what_is_offered_gets_the_recorded_answers_verdict(lively):
    """The pages' models say what was recorded of them, so the judge's parts stand below."""
    name, shown, _ = lively
    if name == "05_ppo":
        assert "log-probability" in shown
        return
    answers = KNOWN["examples"][0]["answers"]
    offered, another = zip(*shown)
    judged = [answers[model]["verdict"] for model in KNOWN["models"]]
    assert all(said.endswith(own) for said, own in zip(offered, judged)), (offered, judged)
    assert not any("gold" in said for said in another), another
