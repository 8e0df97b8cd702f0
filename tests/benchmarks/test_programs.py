"""Programs of a scenario: what they are given, what they found, and why one has no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.programs import found_by
from distill.errors import PotstillError

TELLS = """import json, os, sys
print("a word of a library")
print(json.dumps({"words": sys.argv[1:], "given": sys.stdin.read(), "variable": os.environ["VARIABLE"]}))
"""


def test_a_program_has_its_words_input_and_variables_and_its_last_line_counts(tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    found = found_by("tells", "a", "b", given="some text", PYTHONPATH=str(tmp_path), VARIABLE="1")
    assert found == {"words": ["a", "b"], "given": "some text", "variable": "1"}


def test_a_program_that_dies_gives_its_last_word() -> None:
    with pytest.raises(PotstillError, match=r"^json\.tool died with 1: Expecting value"):
        found_by("json.tool", given="not JSON")


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    with pytest.raises(PotstillError, match=r"sleeps took more than 0\.2 s and was ended"):
        found_by("sleeps", timeout_s=0.2, PYTHONPATH=str(tmp_path))
