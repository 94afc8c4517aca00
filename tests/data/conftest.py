"""Helpers of the data tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def real() -> Path:
    """The folder of real dialogues; tests are skipped where it is not there."""
    if not (REAL / "alpaca_en_demo.json").exists():
        pytest.skip("no ../shared/data beside the repository: real dialogues are not shipped")
    return REAL


@pytest.fixture
def lines(tmp_path):
    """Write rows (objects, or raw text/bytes) to a JSON-lines file and give its path."""

    def write(*rows, name="data.jsonl") -> Path:
        raw = [
            row
            if isinstance(row, bytes)
            else (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode()
            for row in rows
        ]
        path = tmp_path / name
        path.write_bytes(b"\n".join(raw) + b"\n")
        return path

    return write
