"""What counts as an edit of the code that trains, and what does not."""

import ast
import builtins
import http.server
import json
import threading
from pathlib import Path

import pytest

from chatlib.lab import profiles
from chatlib.runs import code, identity
from chatlib.settings.registry import LAUNCHED

BEFORE = '"""About."""\ndef f(x):\n    """Twice."""\n    return 2 * x  # why\n'


def fingerprint(source):
    return json.dumps(code.plain(ast.parse(source)))


@pytest.mark.parametrize(
    "after",
    ["def f(x):\n    return (2\n        * x)\n", BEFORE.replace("Twice", "Doubled")],
)
def test_wording_and_layout_do_not_count(after):
    assert fingerprint(BEFORE) == fingerprint(after)


@pytest.mark.parametrize(
    "after",
    [BEFORE.replace("2", "3"), BEFORE.replace("2", "2.0"), BEFORE.replace("f(x)", "f(x, y=1)")],
)
def test_an_edit_counts(after):
    assert fingerprint(BEFORE) != fingerprint(after)


def test_a_stage_has_the_files_that_it_imports_and_no_others():
    files = {stage: code.code_of(stage).keys() for stage in LAUNCHED}
    everywhere = {"train/engine.py", "data/template.py", "settings/stages.py"}
    assert all(everywhere <= names for names in files.values())
    assert {"train/ppo.py", "train/reward.py", "maths/policy.py"} <= files["ppo"]
    assert not {"train/ppo.py", "maths/policy.py"} & files["sft"]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A package of ours that may be edited."""
    for name in ("maths/policy.py", "train/ppo.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "train" / "ppo.py").write_text("from chatlib.maths import policy\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    return tmp_path


def test_the_changed_file_is_named(copied):
    before = code.code_of("ppo", ())
    (copied / "maths" / "policy.py").write_text("x = 22\n")
    assert code.changed_files(before, code.code_of("ppo", ())) == ["maths/policy.py"]


def test_code_that_is_no_python_is_another_run(copied):
    before = code.code_of("ppo", ())
    (copied / "maths" / "policy.py").write_text("x = (\n")
    assert code.changed_files(before, code.code_of("ppo", ())) == ["maths/policy.py"]


def test_a_file_is_read_once_for_all_names(home, monkeypatch):
    model = home / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights").write_bytes(b"0" * 1000)
    read, original = [], builtins.open

    def counted(path, *arguments, **options):
        read.append(Path(path).name)
        return original(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counted)
    for _ in range(3):
        config = profiles.recipe("ppo", model=str(model), reward_model=str(model))
        names = {identity.run_name(config)}
    assert [read.count(name) for name in ("weights", "config.json")] == [1, 1]
    (model / "weights").write_bytes(b"1" * 1000)
    assert identity.run_name(config) not in names
    assert read.count("weights") == 2


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows one commit of everything, and counts who asks."""
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "/revision/" in self.path:  # the client asks other things, too
                asked.append(self.path)
            body = json.dumps({"id": "a/b", "sha": "c" * 40, "siblings": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        identity.hub_commit.cache_clear()
        yield asked
        server.shutdown()
    identity.hub_commit.cache_clear()


def test_a_branch_of_the_hub_stands_for_its_commit(hub):
    commit = "c" * 40
    for _ in range(2):
        assert identity.content_fingerprint("hub:a/b@main") == f"hub:a/b@{commit}"
        prints = identity.content_fingerprint("hub:a/d@main#train", "dataset")
        assert prints == f"hub:a/d@{commit}#train"
        assert identity.content_fingerprint(f"hub:a/b@{commit}") == f"hub:a/b@{commit}"
    assert hub == ["/api/models/a/b/revision/main", "/api/datasets/a/d/revision/main"]


def test_where_no_hub_answers_the_name_stands_for_itself(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert identity.content_fingerprint("hub:a/b@main") == "hub:a/b@main"
