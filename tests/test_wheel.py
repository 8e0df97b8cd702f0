"""The source distribution and the wheel that is built from it: what they hold, and that the wheel alone predicts.

It is installed with only the `serve` extra into an empty environment, which has no torch, of every Python from 3.11 to 3.13
that the machine has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from distill.bundle import Bundle

ROOT = Path(__file__).parent.parent
PACKAGES = ("distill", "export", "serve")
BESIDE = {".ci/package-index.md", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt"}
BESIDE |= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (source,), (wheel,) = folder.glob("potstill-*.tar.gz"), folder.glob("potstill-*.whl")
    return source, wheel


def shipped() -> set[str]:
    """Return the files of the packages that users get: all but what deploys the server and the picture of its page."""
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    left_out = {path for path in files if path.suffix in {".pyc", ".png"} or ROOT / "serve" / "deploy" in path.parents}
    return {str(path.relative_to(ROOT)) for path in files - left_out}


def contents_of(source: Path) -> set[str]:
    """Return the files of a source distribution without its folder and what setuptools adds."""
    with tarfile.open(source) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    return {name for name in names if not name.startswith("potstill.egg-info/")} - {"PKG-INFO", "setup.cfg"}


@pytest.mark.slow
def test_wheel_and_source_hold_the_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    source, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert names == shipped()
    assert contents_of(source) == shipped() | BESIDE
    described = [sys.executable, "-m", "twine", "check", "--strict", str(source), str(wheel)]
    subprocess.run(described, check=True, capture_output=True)


def pythons() -> list[str]:
    """Return this Python, and the later ones that the machine has, on the path or from pyenv."""
    found = [sys.executable]
    for minor in (12, 13):
        installed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}"))
        named = shutil.which(f"python3.{minor}")
        if sys.version_info[1] != minor and (installed or named):
            found.append(str(installed[-1]) if installed else str(named))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("interpreter", pythons())
def test_serve_install_predicts_without_torch(
    built: tuple[Path, Path], interpreter: str, tiny_student: Bundle, tmp_path: Path
) -> None:
    _, wheel = built
    environment = tmp_path / "empty"
    subprocess.run([interpreter, "-m", "venv", str(environment)], check=True)
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
    subprocess.run([str(python), "-c", "import serve.http.app, serve.http.server"], check=True, cwd=tmp_path)
    # Also the modules that need torch: what a later Python warns of in their text is an error.
    packages = [str(next(environment.glob(f"lib/python*/site-packages/{package}"))) for package in PACKAGES]
    subprocess.run([str(python), "-W", "error", "-m", "compileall", "-q", "-f", *packages], check=True, capture_output=True)
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers"} & {package["name"] for package in json.loads(listed.stdout)}
    refused = subprocess.run(
        [potstill, "teacher", "--train", "x.csv", "--out", "x"], capture_output=True, text=True, cwd=tmp_path
    )
    assert refused.returncode == 5
    assert "pip install 'potstill[train]'" in refused.stderr
