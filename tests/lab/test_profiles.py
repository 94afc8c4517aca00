"""Profiles: what they change, how one is chosen, and a page under a profile of one's own."""

import ast
import itertools
import json
import re

import pytest

from chatlib.lab import LaunchError, profiles, results
from chatlib.launch import plan
from chatlib.maths import scaling
from chatlib.runs import identity
from chatlib.runs.store import run_of
from chatlib.settings.device import gpus

LARGE = [name for name, profile in profiles.PROFILES.items() if profile.gpus]
STEPS = {"sft": 500, "reward": 120}  # under a profile of ones own: enough for the assertions


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("CHATLIB_PROFILE", "CHATLIB_HOSTS"):
        monkeypatch.delenv(name, raising=False)


def test_the_laptop_changes_nothing():
    """Names of runs follow from the fields: the book's runs must not be renamed."""
    laptop = profiles.PROFILES["laptop"]
    assert not any(laptop.of(name) for name in profiles.RECIPES)
    sft = profiles.recipe("sft", 3, "laptop").model_dump(exclude_defaults=True)
    assert sft == {
        "split": (6, 2, 2),
        "records": 24_000,
        "batch_size": 16,
        "steps": 2000,
        "learning_rate": 3e-3,
        "num_warmup_steps": 50,
        "seed": 3,
    }


@pytest.mark.parametrize("name", LARGE)
def test_a_large_profile_carries_every_recipe(name):
    at = profiles.choose(name)
    configs = {recipe: profiles.recipe(recipe, profile=at) for recipe in profiles.RECIPES}
    assert all(config.ranks == at.nodes * at.gpus for config in configs.values())
    assert configs["sft"].model.startswith("hub:") and "@" in configs["sft"].model
    assert all(s.name == "shop" or "@" in s.name for c in configs.values() for s in c.sources)
    one, two = configs["overoptimised"].model_dump(), configs["control"].model_dump()
    assert {key for key in one if one[key] != two[key]} == {"kl_ctl"}
    assert configs["ppo"].model == f"run:{identity.run_name(configs['sft'])}"
    assert configs["ppo"].reward_model == f"run:{identity.run_name(configs['reward'])}"
    assert all(config.save_every for config in configs.values())  # machines are taken away
    assert configs["weak_reward"].records < configs["reward"].records / 10
    laptop = profiles.recipe("sft", profile="laptop")
    assert identity.run_name(configs["sft"]) != identity.run_name(laptop)


def test_the_small_profile_tunes_a_real_model_with_adapters():
    configs = {name: profiles.recipe(name, profile="small") for name in profiles.RECIPES}
    assert configs.pop("distillation").lora is None  # its student is new
    assert all(config.ranks == 2 and config.lora.lora_dim == 16 for config in configs.values())
    assert configs["sft"].model == "pypi:smollm2"
    assert configs["ppo"].model == f"run:{identity.run_name(configs['sft'])}"
    assert configs["ppo"].reward_model == f"run:{identity.run_name(configs['reward'])}"
    one, two = configs["overoptimised"].model_dump(), configs["control"].model_dump()
    assert {key for key in one if one[key] != two[key]} == {"kl_ctl"}


@pytest.mark.parametrize("name, card", [("gpu", 24), ("node", 80), ("cluster", 80)])
def test_four_models_leave_a_quarter_of_the_card_for_activations(name, card):
    """Predicted from the size in the model's name; LoRA's share is below a twentieth."""
    at, config = profiles.choose(name), profiles.recipe("ppo", profile=name)
    assert f"of {card} GB" in profiles.PROFILES["node" if name == "cluster" else name].machine
    size = round(float(re.search(r"-([\d.]+)B", at.model)[1]) * 1e9)
    trained = size // 20 if config.lora else size
    how = config.ranks, config.zero_stage, config.dtype, (trained, trained)
    away = config.offload, config.offload_reference_model
    held = scaling.ppo_bytes(size, size, *how, *away)
    assert scaling.total(held) < 0.75 * card * 1e9


def test_changes_win_over_the_profile():
    assert profiles.recipe("sft", profile="gpu", dtype="fp16", steps=3).steps == 3


def test_the_rows_of_the_named_data_sets_are_read(tmp_path):
    """Rows with the columns of the data sets' cards, in a local data set folder each."""
    from chatlib.data import readers

    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    worse = [turns[0], {"role": "assistant", "content": "No."}]
    pair = {"prompt": "Hi?", "prompt_id": "0", "chosen": turns, "rejected": worse}
    pair |= {"messages": turns, "score_chosen": 8.0, "score_rejected": 2.0}
    chat = {"prompt": "Hi?", "prompt_id": "0", "messages": turns}
    for source, row in ((profiles.PAIRS, pair), (profiles.CHATS, chat)):
        assert readers.HUB_NAME.fullmatch(source.name)["split"]
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        (record,) = readers.read(path, source.format).records
        answer = record.chosen if source is profiles.PAIRS else record.answer
        assert answer == "Hello."
        if source is profiles.PAIRS:
            assert record.rejected == "No." and record.prompt == turns[:1]


@pytest.mark.parametrize(
    "gpus, hosts, expected",
    [(0, None, "laptop"), (1, None, "gpu"), (4, None, "node"), (0, "2 nodes", "cluster")],
)
def test_the_profile_is_found_out(monkeypatch, tmp_path, gpus, hosts, expected):
    monkeypatch.setattr(profiles, "gpus", lambda: gpus)
    if hosts:
        (tmp_path / "hostfile").write_text("".join(f"node{i} slots=4\n" for i in range(3)))
        monkeypatch.setenv("CHATLIB_HOSTS", str(tmp_path / "hostfile"))
    found = profiles.choose()
    assert found.name == expected
    ranks = {"laptop": 2, "gpu": 1, "node": 4, "cluster": 12}[expected]
    sizes = {"batch_size": 96} if expected == "cluster" else {}
    assert profiles.recipe("sft", profile=found, **sizes).ranks == ranks


def test_the_environment_wins_over_the_machine_and_the_argument_over_both(monkeypatch):
    monkeypatch.setattr(profiles, "gpus", lambda: 8)
    monkeypatch.setenv("CHATLIB_PROFILE", "gpu")
    assert profiles.choose().name == "gpu"
    assert profiles.choose("laptop").name == "laptop"


def test_gpus_are_counted_without_torch(monkeypatch):
    monkeypatch.setenv("CHATLIB_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert gpus() == 2
    with pytest.raises(LaunchError, match=r"ranks 4 need a GPU each and this machine offers 2;"):
        plan.require_gpus(4)
    monkeypatch.setenv("CHATLIB_DEVICE", "cpu")
    assert gpus() == 0
    plan.require_gpus(4)


def test_a_file_changes_another_profile(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            {"like": "gpu", "gpus": 2, "settings": {"sft": {"steps": 7}, "all": {"lora": None}}}
        )
    )
    found, gpu = profiles.choose(path), profiles.PROFILES["gpu"]
    sft = profiles.recipe("sft", profile=found)
    assert (found.name, sft.steps, sft.ranks, sft.lora) == ("mine", 7, 2, None)
    assert sft.learning_rate == gpu.settings["sft"]["learning_rate"] and sft.dtype == "bf16"
    assert gpu.settings["sft"]["steps"] != 7


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, r"gone.json is no profile \(No such file or directory\); give a JSON object"),
        ("[1]", r"gone.json is no profile \(.*\); give a JSON object"),
        (
            '{"like": "desktop"}',
            r"profile 'desktop' does not exist; use laptop, small, gpu, node, cluster",
        ),
        ('{"gpu": 3}', r"gone.json is no profile \(`gpu`: Extra inputs are not permitted\)"),
        ('{"settings": {"stf": {}}}', r"`settings`: .*'stf' is no recipe"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path, text, sentence):
    path = tmp_path / "gone.json"
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        profiles.choose(path)


def test_the_table_has_a_row_for_each_profile():
    table = profiles.table()
    assert list(table.index) == ["laptop", "small", "gpu", "node", "cluster"]
    assert table["ranks"].tolist() == [2, 2, 1, 8, 16]
    assert not table.isna().any().any()


def test_unequal_hosts_are_refused(monkeypatch, tmp_path):
    (tmp_path / "hostfile").write_text("node1 slots=8\nnode2 slots=4\n")
    monkeypatch.setenv("CHATLIB_HOSTS", str(tmp_path / "hostfile"))
    with pytest.raises(ValueError, match=r"unequal slots \(\[8, 4\]\).*give all the same number"):
        profiles.choose()


# ------------------------------------------------------- a page under another profile


def small_llama(folder):
    """A model folder as a hub has them: a Llama of random weights, and its tokenizer."""
    from transformers import set_seed

    from chatlib.data import shop, template
    from chatlib.settings.stages import TinyModel
    from chatlib.train import models

    texts = (m["content"] for d in shop.demonstrations(4000) for m in d.messages)
    tokenizer = template.train_tokenizer(texts, 1536)
    set_seed(0)
    models.tiny_policy(TinyModel(), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class WithoutClaims(ast.NodeTransformer):
    """An `assert` below a figure is what a page claims of the runs that it was written with."""

    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


def up_to_the_experiments(page, copy):
    """A page with what it shows of its own stage's run; experiments follow, on runs of their own.

    What cells claim of the book's own runs is left out: other settings need not bear it out.
    """
    from chatlib.book import pages

    notebook = pages.load(page)
    code = [cell.source if cell.cell_type == "code" else "" for cell in notebook.cells]
    own = next(i for i, source in enumerate(code) if "run = lab.trained(" in source)
    further = ("= lab.launch(", "record(")
    end = next(i for i, source in enumerate(code) if i > own and any(f in source for f in further))
    kept = itertools.takewhile(lambda source: "record(" in source, code[end:])
    notebook.cells = notebook.cells[: end + len(list(kept))]
    for cell in notebook.cells:
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            cell.source = ast.unparse(WithoutClaims().visit(ast.parse(cell.source)))
    pages.save(notebook, copy)


@pytest.mark.launch
@pytest.mark.timeout(900)
def test_pages_run_under_a_profile_with_a_model_and_data_of_ones_own(tmp_path, monkeypatch):
    """Pages 3 and 4 on one rank: SFT from a model folder and a file, the reward model after it."""
    from chatlib.book import execute, pages
    from chatlib.data import readers, shop

    model, data = tmp_path / "llama", tmp_path / "shop.jsonl"
    small_llama(model)
    readers.write(shop.demonstrations(STEPS["sft"] * 16), data)
    copies = [tmp_path / name for name in ("03_sft.ipynb", "04_reward.ipynb")]
    for page in copies:
        up_to_the_experiments(pages.NOTEBOOKS / page.name, page)
    settings = {name: {"ranks": 1, "steps": steps} for name, steps in STEPS.items()}
    settings["sft"] |= {"split": (1, 0, 0), "sources": [{"name": str(data)}]}
    mine = {"model": str(model), "settings": settings}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    monkeypatch.setenv("CHATLIB_PROFILE", str(tmp_path / "mine.json"))

    execute.execute(copies, tmp_path)

    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path / "runs"))
    shown = results.read(tmp_path / "results.json")
    for name, steps in STEPS.items():
        run = run_of(profiles.recipe(name))
        assert run.complete and run.manifest["world"] == 1 and len(run.metrics) == steps
    sft = run_of(profiles.recipe("sft"))
    assert sft.config["model"] == str(model) and shown["sft"]["seconds"] == sft.manifest["seconds"]
    assert shown["sft"]["gold"] > -1 and run.manifest["chance_to_bayes"] > 0.5
