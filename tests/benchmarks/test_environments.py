"""Environments of peers: made once, made again for other packages, and a reason where they cannot be made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import environments
from benchmarks.harness.environments import NODE_PACKAGES, is_ready, node_folder, python_of
from export.measure.workers import PeerError


class Installer:
    """Stands for pip and npm: notes the commands and ends as it is told."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stderr = ""

    def run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        return subprocess.CompletedProcess(list(command), int(bool(self.stderr)), "", self.stderr)


def packages_of(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Installer:
    found = Installer()
    monkeypatch.setattr(venv, "create", lambda place, clear: packages_of(place).mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(environments, "run_child", found.run)
    return found


def test_an_environment_is_made_once_and_again_for_other_packages(
    installer: Installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_ready("openvino", folder=tmp_path)
    assert python_of("openvino", folder=tmp_path) == tmp_path / "openvino" / "bin" / "python"
    assert is_ready("openvino", folder=tmp_path)
    (command,) = installer.commands
    assert command[-2:] == list(environments.requirements_of("openvino"))
    assert command[-3].startswith("torch==")  # ours stays
    behind = (packages_of(tmp_path / "openvino") / "behind.pth").read_text()
    assert "site-packages" in behind  # what is not the peer's own comes from this interpreter
    python_of("openvino", folder=tmp_path)
    assert len(installer.commands) == 1
    monkeypatch.setattr(environments, "requirements_of", lambda _: ("openvino==1.0",))
    python_of("openvino", folder=tmp_path)
    assert installer.commands[1][-1] == "openvino==1.0"


def test_a_peer_without_packages_runs_in_this_interpreter(installer: Installer, tmp_path: Path) -> None:
    assert python_of("stock", folder=tmp_path) == Path(sys.executable)
    assert is_ready("stock", folder=tmp_path)
    assert not installer.commands


def test_why_an_environment_cannot_be_made_is_said_and_it_is_tried_again(installer: Installer, tmp_path: Path) -> None:
    installer.stderr = "a warning\nERROR: no version fits\nhint: ask somebody"
    for _ in range(2):
        with pytest.raises(PeerError, match=r"^openvino will not install: ERROR: no version fits$"):
            python_of("openvino", folder=tmp_path)
    assert len(installer.commands) == 2


def test_packages_for_node_are_installed_once(installer: Installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    installer.stderr = "no network"
    with pytest.raises(PeerError, match="will not install: no network"):
        node_folder(folder=tmp_path)
    installer.stderr = ""
    assert node_folder(folder=tmp_path) == node_folder(folder=tmp_path) == tmp_path / "node"
    assert [tuple(command[-len(NODE_PACKAGES) :]) for command in installer.commands] == [NODE_PACKAGES] * 2
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(PeerError, match="need npm"):
        node_folder(folder=tmp_path / "elsewhere")
