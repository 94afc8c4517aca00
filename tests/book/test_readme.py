"""The README's table and picture are made from the figures and from nothing else."""

import pytest

from chatlib.book import readme
from chatlib.lab import results

FIGURES = {
    "sft": {"grounded": 0.871, "seconds": 110.4},
    "ppo": {
        "seeds": [
            {"seed": 0, "gold_before": 1.9, "gold_after": 3.1, "win_low": 0.72},
            {"seed": 1, "gold_before": 1.8, "gold_after": 3.0, "win_low": 0.70},
        ],
        "components": {"before": {"facts": 1.7}, "after": {"facts": 1.8}},
    },
    "provenance": {
        "book": {
            "cpu": "Testor 3000",
            "cores": 2,
            "commit": "0123456789abcdef",
            "versions": {"torch": "2", "deepspeed": "0.19", "transformers": "5"},
        }
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "PICTURE", tmp_path / "result.svg")
    readme.README.write_text(f"# Title\n{readme.BEGIN}\nold 9.99\n{readme.END}\nrest\n")
    results.write(tmp_path / "results.json", FIGURES)
    return tmp_path


def test_table_holds_the_figures_and_the_rest_stays(project):
    readme.update(project / "results.json")
    text = readme.README.read_text()
    assert "| SFT: stated numbers that the prompt contains | 0.87 | 0.85 |" in text
    assert "| +1.20, +1.20 | +1.0 each |" in text
    assert "2 cores of Testor 3000" in text and "at commit 012345678." in text
    assert text.startswith("# Title\n") and text.endswith("\nrest\n") and "9.99" not in text


def test_a_figure_that_was_not_measured_has_no_row(project):
    assert "well-formed" not in readme.table(FIGURES)


def test_equal_figures_give_equal_bytes(project):
    readme.update(project / "results.json")
    first = readme.README.read_bytes(), readme.PICTURE.read_bytes()
    readme.update(project / "results.json")
    assert (readme.README.read_bytes(), readme.PICTURE.read_bytes()) == first


def test_without_figures_there_is_a_sentence_and_no_change(project):
    before = readme.README.read_text()
    with pytest.raises(ValueError, match="run `make book`"):
        readme.update(project / "nothing.json")
    assert readme.README.read_text() == before


def test_the_projects_readme_has_the_place_for_the_table():
    text = (readme.pages.ROOT / "README.md").read_text()
    assert text.index(readme.BEGIN) < text.index(readme.END)
