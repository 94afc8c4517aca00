"""The measurement that waits for a card, on the CPU with a small model."""

import json
import zipfile

import parts
import pytest
import wheels


@pytest.mark.launch
@pytest.mark.timeout(300)
def test_all_parts_run_are_stored_and_not_run_again(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CHATLIB_RUNS", str(tmp_path / "runs"))
    stored = tmp_path / "gpu.json"
    asked = ["--size", "tiny", "--store", str(stored)]
    names = [name for name in parts.PARTS if name != "tests"]  # those run by themselves
    assert parts.main([*asked, *names]) == 0
    found = json.loads(stored.read_text())["cpu"]["tiny"]
    assert list(found) == sorted(names)
    for name in ("sft", "reward", "ppo"):
        figures = found[name]["figures"]
        assert figures["tokens_per_second"] > 0 and figures["predicted_gib"] > 0
    assert 0 < found["ppo"]["figures"]["generation_share"] < 1
    assert set(found["zero"]["figures"]) == {"zero2_offload", "zero3_offload"}
    assert found["sft"]["provenance"]["versions"]["torch"]
    began = stored.stat().st_mtime_ns
    assert parts.main([*asked, *names]) == 0 and stored.stat().st_mtime_ns == began
    assert capfd.readouterr().out.count("done, with this code") == len(names)


def test_a_part_is_measured_again_when_the_code_has_changed(tmp_path, monkeypatch):
    asked = parts.arguments(["--size", "tiny", "--store", str(tmp_path / "gpu.json")])
    monkeypatch.setitem(parts.PARTS, "sft", lambda size: {"tokens_per_second": 1.0})
    parts.measure("sft", asked)
    assert parts.is_done("sft", asked) and not parts.is_done("ppo", asked)
    monkeypatch.setattr(parts, "code", lambda: "another")
    assert not parts.is_done("sft", asked)


def test_wheels_are_unpacked_without_pip_and_their_scripts_run_this_python(tmp_path):
    with zipfile.ZipFile(tmp_path / "tool-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tool/__init__.py", "answer = 42\n")
        wheel.writestr("tool-1.data/scripts/tool", "#!python\nimport tool\nprint(tool.answer)\n")
    wheels.unpack(tmp_path, tmp_path / "site")
    script = tmp_path / "site" / "bin" / "tool"
    assert script.read_text().startswith(f"#!{parts.sys.executable}\n")
    said = parts.subprocess.run(
        [script], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert said.stdout == "42\n"


def test_wheels_of_another_python_are_refused_before_anything_is_unpacked(tmp_path):
    (tmp_path / "core-1-cp37-cp37m-manylinux2014_x86_64.whl").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"core-1.* is not for Python"):
        wheels.unpack(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_every_wheel_that_is_lacking_is_pinned():
    assert all("==" in wheels.pinned(name) for name in [wheels.BUILT, *wheels.LACKING])
