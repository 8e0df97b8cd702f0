"""What becomes a page and what does not, and where ONNX Runtime for browsers comes from."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from word_pieces import with_word_pieces

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError
from export.web import browser, npm_runtime
from export.web.browser import page_files


@pytest.fixture
def reviews(tiny_student: Bundle, copied: Any, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Return a bundle for a page, which is made without ONNX Runtime."""
    monkeypatch.setattr(browser, "runtime_files", dict)
    return with_word_pieces(copied(tiny_student))


def with_settings(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update=changes))


def test_the_page_has_int8_unless_told_otherwise(reviews: Bundle) -> None:
    assert page_files(reviews, None)["model.onnx"] == reviews.graph("int8").read_bytes()
    files = page_files(reviews, "fp32")
    assert files["model.onnx"] == reviews.graph("fp32").read_bytes()
    about = json.loads(files["model.json"])
    assert (about["precision"], about["tolerance"], about["labels"]) == ("fp32", 1e-3, ["negative", "positive"])
    assert len({probe["text"] for probe in about["probes"]}) == 8
    assert page_files(reviews, "fp32")["model.json"] == files["model.json"]  # the same page every time


def test_dynamic_scales_are_not_taken_silently(reviews: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    dynamic = with_settings(reviews, settings={"export": {"activations": "dynamic"}})
    with caplog.at_level(logging.WARNING):
        assert page_files(dynamic, None)["model.onnx"] == reviews.graph("fp32").read_bytes()
    assert "dynamic scales" in caplog.text
    with pytest.raises(SettingsError, match="dynamic scales"):
        page_files(dynamic, "int8")
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        page_files(with_settings(dynamic, precisions=("int8",), files=without(reviews, "model.onnx")), None)


def without(bundle: Bundle, name: str) -> dict[str, Any]:
    return {each: entry for each, entry in bundle.manifest.files.items() if each != name}


def test_a_bundle_that_the_page_would_read_otherwise_is_refused(tiny_student: Bundle, reviews: Bundle) -> None:
    with pytest.raises(SettingsError, match="normalizer Lowercase, and the web layout reads BertNormalizer only"):
        page_files(tiny_student, None)
    with pytest.raises(SettingsError, match="pairs of texts"):
        page_files(with_settings(reviews, pairs="untyped"), None)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which programs are found; the cache is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return folder


def test_without_npm_the_message_says_what_to_put_where(programs: Path) -> None:
    with pytest.raises(SettingsError, match=r"npm is not installed; install it, or put onnxruntime-web-\S+\.tgz from the npm"):
        npm_runtime.runtime_files()


def test_what_npm_reports_is_passed_on(programs: Path) -> None:
    npm = programs / "npm"
    reported = "code EAI_AGAIN", "errno EAI_AGAIN", "network no address found", "A complete log of this run is in ..."
    npm.write_text("#!/bin/sh\n" + "".join(f"echo 'npm error {line}' >&2\n" for line in reported) + "exit 1\n")
    npm.chmod(0o755)
    with pytest.raises(SettingsError, match=r"\(network no address found\); connect to the network"):
        npm_runtime.runtime_files()


def test_another_archive_than_the_tested_one_is_refused(programs: Path) -> None:
    npm_runtime.folder().mkdir(parents=True)
    (npm_runtime.folder() / npm_runtime.ARCHIVE).write_bytes(b"another release")
    with pytest.raises(SettingsError, match=r"it is not the tested release: remove .*\.tgz"):
        npm_runtime.runtime_files()
