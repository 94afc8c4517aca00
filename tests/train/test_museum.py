"""The museum of silent bugs: every exhibit is found by the test that it names, and only then.

The named tests run in one process of their own (`under_mutation`): each as the code is, and once
more with every mistake that it is said to find.
"""

from dataclasses import replace

import pytest

from chatlib.book import museum
from chatlib.runs.store import run_of

SAID = ("AssertionError", "Failed")  # by the test's own assert, or by `pytest.raises`
NAMES = [exhibit.name for exhibit in museum.EXHIBITS]


@pytest.fixture(scope="module")
def verdicts():
    """How every named test ended, as the code is and with the mistakes."""
    return museum.verdicts()


@pytest.mark.parametrize("name", NAMES)
def test_the_test_that_an_exhibit_names_fails_with_it(name, verdicts):
    found = verdicts[name]
    assert found["outcome"] == "failed", f"{name} survives {museum.exhibit(name).test}"
    assert (found["when"], found["own"]) == ("call", True), f"it crashed instead: {found}"
    assert found["error"] in SAID


@pytest.mark.parametrize("test", sorted({exhibit.test for exhibit in museum.EXHIBITS}))
def test_without_a_mistake_it_passes(test, verdicts):
    assert verdicts[test + museum.AS_IT_IS]["outcome"] == "passed"


# ------------------------------------------------------------------------- the collection
def test_there_are_sixteen_mistakes_in_every_stage_and_no_two_are_the_same():
    assert len(NAMES) == len(set(NAMES)) >= 16
    mistakes = [tuple((e.where, e.mutant) for e in one.edits) for one in museum.EXHIBITS]
    assert len(set(mistakes)) == len(mistakes)
    assert {one.recipe for one in museum.EXHIBITS} == {*museum.SHORT}


@pytest.mark.parametrize("exhibit", museum.EXHIBITS, ids=NAMES)
def test_a_mistake_is_a_changed_line_of_a_real_function(exhibit):
    for edit in exhibit.edits:
        compile(edit.mutant, edit.where, "exec")
        assert edit.original != edit.mutant
        where, *lines = museum.difference(edit)
        assert where == edit.where
        assert 1 <= len(lines) <= 2 and any(line.startswith("+ ") for line in lines)


def test_a_run_with_a_mistake_is_another_run(monkeypatch, tmp_path):
    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path))
    monkeypatch.setenv("CHATLIB_PROFILE", "laptop")
    exhibit = museum.exhibit("end-masked")
    healthy = run_of(exhibit.config()).name
    config = exhibit.config()
    with exhibit.on_show():
        assert run_of(config).name != healthy
    assert run_of(config).name == healthy


@pytest.mark.parametrize("phrase", ["no such phrase", "="])
def test_a_phrase_that_does_not_stand_there_once_is_an_error(phrase):
    edit = replace(museum.exhibit("end-masked").edits[0], phrase=phrase)
    with pytest.raises(ValueError, match=r"times, not once: mend the exhibit"):
        edit.mutant  # noqa: B018 (a property that raises)


@pytest.mark.parametrize(
    "name", ["chatlib.maths.policy.gone", "chatlib.maths.gone.gae", "chatlib.gone.module.f"]
)
def test_a_function_that_was_renamed_is_an_error(name):
    with pytest.raises(ValueError, match=r"was it renamed|there is no such module"):
        museum.source_of(name)


def test_the_source_of_a_method_and_of_a_decorated_function_is_whole():
    assert museum.source_of("chatlib.maths.policy.gae").startswith("@torch.no_grad()\ndef gae(")
    assert museum.source_of("chatlib.train.models.AnswerLM.forward").startswith("def forward(")


def test_an_exhibit_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no exhibit 'x'; there are labels-not-shifted, "):
        museum.exhibit("x")
