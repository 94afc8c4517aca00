"""Compressed folders: what is written comes back, answers, and is as small as it says."""

import json
import sys
from pathlib import Path

import pytest
import torch

from chatlib import cli
from chatlib.compress import activation, folder, quantise
from chatlib.compress.folder import INT4, INT8, CompressionError, Rounding
from chatlib.train import models, rollout

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from tiny_export_model import PROMPTS, save


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def whole(request, tmp_path_factory):
    place = save(tmp_path_factory.mktemp("model"), tie_word_embeddings=request.param)
    tokenizer = models.load_tokenizer(str(place))
    with models.no_bar():
        return models.load_policy(str(place), tokenizer).eval(), tokenizer


@pytest.fixture(scope="module")
def texts(whole):
    _, tokenizer = whole
    rows = [" ".join(m["content"] for m in prompt) for prompt in PROMPTS[:8]]
    return [tokenizer.encode(row) for row in rows]


def logits(model, texts):
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([t])).logits[0] for t in texts])


@pytest.mark.parametrize("how", [INT8, INT4, Rounding(4), Rounding(2, 16)], ids=str)
def test_what_is_written_is_what_was_packed(whole, texts, how, tmp_path):
    model, tokenizer = whole
    size = folder.write(model, tokenizer, tmp_path / "small", how)
    back, its_tokenizer = folder.load(tmp_path / "small")
    twin = folder.packed(model, how)
    assert torch.equal(logits(back, texts), logits(twin, texts))
    assert its_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert folder.size(back) == folder.size(twin)
    assert size < folder.size(back) + 8192, "a file is its tensors and a header"
    about = json.loads((tmp_path / "small" / "compression.json").read_text())
    assert (about["bits"], about["group"]) == (how.bits, how.group)


def test_packed_weights_are_the_rounded_ones(whole):
    model, _ = whole
    twin = folder.packed(model, INT4)
    W = model.model.layers[1].mlp.down_proj.weight.detach()
    integers, s = quantise.quantise(W, 4, 32)
    expected = quantise.dequantise(integers, s.half().float())
    assert torch.equal(twin.model.layers[1].mlp.down_proj.matrix(), expected)


def test_fewer_bits_are_fewer_bytes_and_move_logits_more(whole, texts):
    model, _ = whole
    before = logits(model, texts)
    found = [folder.packed(model, how) for how in (INT8, INT4, Rounding(2, 32))]
    sizes = [folder.size(model), *map(folder.size, found)]
    assert sizes[0] > 3.5 * sizes[1] > sizes[2] and sizes[1] > 1.6 * sizes[2]
    moved = [(logits(one, texts) - before).abs().mean().item() for one in found]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_the_model_given_is_not_changed(whole, texts):
    model, _ = whole
    before = logits(model, texts)
    folder.packed(model, Rounding(2))
    assert torch.equal(logits(model, texts), before)


def test_a_compressed_model_answers_as_a_plain_one_with_its_weights(whole):
    model, tokenizer = whole
    small = folder.packed(model, INT8)
    plain = folder.unpacked(small)
    tied = plain.lm_head.weight is plain.model.embed_tokens.weight
    assert tied is model.config.tie_word_embeddings
    for name, layer in folder.matrices(plain).items():
        assert torch.equal(layer.weight, small.get_submodule(name).matrix()), name
    answers = [
        rollout.answer(one, tokenizer, PROMPTS[:4], temperature=0, max_answer_tokens=8)
        for one in (small, plain)
    ]
    assert answers[0] == answers[1] and any(answers[0])


def test_scales_by_activations_survive_the_folder_and_help(whole, texts, tmp_path):
    model, tokenizer = whole
    how, (seen, other) = Rounding(3, 32), (texts[:4], texts[4:])
    found = activation.scales(model, seen, how)
    tied = model.config.tie_word_embeddings
    assert ("lm_head" in found) is not tied and "model.embed_tokens" not in found
    folder.write(model, tokenizer, tmp_path / "aware", how, found)
    back, _ = folder.load(tmp_path / "aware")
    aware = folder.packed(model, how, found)
    assert torch.equal(logits(back, other), logits(aware, other))
    read = activation.inputs(model, other)["model.layers.0.mlp.down_proj"]
    layer = "model.layers.0.mlp.down_proj"
    W = model.get_submodule(layer).weight.detach()
    errors = [
        quantise.output_error(W, one.get_submodule(layer).matrix(), read)
        for one in (aware, folder.packed(model, how))
    ]
    assert errors[0] < errors[1] * 1.02


def test_nothing_is_written_over(whole, tmp_path):
    with pytest.raises(CompressionError, match="exists"):
        folder.write(*whole, tmp_path, INT8)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        folder.write(*whole, tmp_path / "small", INT8)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_refused_with_a_sentence(whole, tmp_path):
    with pytest.raises(CompressionError, match=r"no compressed model; it has no compression.json"):
        folder.load(tmp_path)
    (tmp_path / "compression.json").write_text('{"format": 9}')
    with pytest.raises(CompressionError, match="format 9; this reads 1"):
        folder.load(tmp_path)


def test_from_a_shell(whole, tmp_path, capsys):
    model, tokenizer = whole
    place = tmp_path / "model"
    model.save_pretrained(place), tokenizer.save_pretrained(place)
    small = tmp_path / "small"
    assert cli.main(["compress", str(place), str(small), "--int4", "--aware"]) == 0
    assert "4 bits in groups of 32" in (said := capsys.readouterr().out) and str(small) in said
    back, _ = folder.load(small)
    layer = back.model.layers[0].mlp.up_proj.matrix
    assert layer.packed.dtype is torch.uint8 and layer.c is not None
    assert cli.main(["compress", str(place), str(small)]) == 2
    assert cli.main(["compress", str(place), str(tmp_path / "x"), "--int4", "--int8"]) == 2
    assert cli.main(["compress", str(place), str(tmp_path / "no" / "x")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["exists" in errors[0], "exclude" in errors[1], "make it first" in errors[2]] == [
        True
    ] * 3
