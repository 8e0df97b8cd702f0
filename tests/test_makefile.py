"""What `make` shows while it installs: one line, and pip's output only when the install fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"
WARNING = "WARNING: of a machine that has other pip settings"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("status", [0, 1])
def test_the_output_of_pip_is_shown_only_when_the_install_fails(tmp_path: Path, status: int) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    python = binaries / "python"
    python.write_text(f"#!/bin/sh\necho '{WARNING}'; echo '{WARNING}' >&2; exit {status}\n")
    python.chmod(0o755)
    (tmp_path / ".venv" / ".made").touch()
    done = subprocess.run(
        ["make", ".venv/.installed-dev"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    shown = done.stdout + done.stderr
    assert "Installing potstill[dev]" in shown
    assert (done.returncode == 0) is (status == 0)
    assert shown.count(WARNING) == (2 if status else 0)
    assert (".venv/install.log" in shown) is bool(status)
    assert (tmp_path / ".venv" / "install.log").read_text().count(WARNING) == 2
    assert (tmp_path / ".venv" / ".installed-dev").exists() is (status == 0)
