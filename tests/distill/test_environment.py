"""The circumstances in a result file: true, plain, and naming nobody."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from distill import machine as environment
from distill.machine import describe_environment


def test_the_circumstances_are_those_of_this_machine() -> None:
    described = describe_environment()
    assert described["python"] == platform.python_version()
    assert described["cpus_host"] == os.cpu_count()
    assert 1 <= described["cpus_available"] <= described["cpus_host"]
    assert described["memory_bytes"] > 2**28
    assert described["versions"]["numpy"] == np.__version__
    assert described["cpu"]


def test_they_are_plain_values() -> None:
    described = describe_environment()
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_they_name_no_host_or_path() -> None:
    words = json.dumps(describe_environment())
    for name in (socket.gethostname(), str(Path.home()), str(Path.cwd())):
        assert not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words), name


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("numpy", "no-such-package"))
    assert describe_environment()["versions"].keys() == {"numpy"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=T", "-c", "user.email=t@example.org")
        return subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True).stdout

    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    assert (describe_environment()["git_commit"], describe_environment()["git_dirty"]) == (None, None)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    described = describe_environment()
    assert (described["git_commit"], described["git_dirty"]) == (git("rev-parse", "HEAD").strip(), False)
    (tmp_path / "new").write_text("changed")
    assert describe_environment()["git_dirty"] is True


def test_without_git_nothing_is_said_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_environment()["git_commit"] is None
