"""The built wheel, installed with only the `serve` extra into an empty environment, predicts without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distill.bundle import Bundle

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("potstill-*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"distill", "export", "serve"}
    assert {
        "distill/py.typed",
        "export/fitting/reporting/fit.html.jinja",
        "serve/page/index.html",
    } <= set(names)


@pytest.mark.slow
def test_serve_install_predicts_without_torch(wheel: Path, tiny_student: Bundle, tmp_path: Path) -> None:
    environment = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    constraints = str(ROOT / "constraints.txt")
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", constraints, f"potstill[serve] @ {wheel.as_uri()}"]
    subprocess.run(install, check=True, capture_output=True)
    potstill = str(environment / "bin" / "potstill")
    done = subprocess.run(
        [potstill, "predict", str(tiny_student.path), "a lovely warm film", "--json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    (answer,) = json.loads(done.stdout)["predictions"]
    assert answer["label"] == "positive"
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers"} & {package["name"] for package in json.loads(listed.stdout)}
    refused = subprocess.run(
        [potstill, "teacher", "--train", "x.csv", "--out", "x"], capture_output=True, text=True, cwd=tmp_path
    )
    assert refused.returncode == 5
    assert "pip install 'potstill[train]'" in refused.stderr
