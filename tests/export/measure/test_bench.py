"""`bench_bundle`: what it measures is kept in the bundle, with the circumstances."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.bundle import Bundle
from distill.data import Dataset
from distill.errors import StorageError
from distill.progress import SilentReporter
from export.measure import bench
from export.measure.bench import bench_bundle
from export.measure.candidates import bundle_candidate
from export.settings import BenchSettings

Copied = Callable[[Bundle], Bundle]
QUICK = BenchSettings(rounds=3, texts_per_round=4, settle_s=0.1, window_s=0.02, throughput_texts=8, throughput_rounds=3)


@pytest.mark.slow
def test_the_result_is_sealed_into_the_bundle(
    tiny_student: Bundle, tiny_teacher: Bundle, copied: Copied, tiny_test: Dataset
) -> None:
    bundle = copied(tiny_student)
    teacher = bundle_candidate(tiny_teacher, name="teacher", form="pytorch")
    candidates = [teacher, bundle_candidate(bundle, name="student", form="int8")]
    report = bench_bundle(bundle, candidates, tiny_test, teacher=teacher, settings=QUICK, reporter=SilentReporter())
    kept = Bundle.open(bundle.path).file("benchmark.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == report
    assert report["test_fingerprint"] == tiny_test.fingerprint()
    assert report["settings"] == QUICK.model_dump(mode="json")
    assert {"cpu", "cpus_available", "int8_instruction_set", "load_average_1m", "versions"} <= report["environment"].keys()
    assert [row["name"] for row in report["rows"]] == ["teacher", "student"]
    assert report["rows"][0]["cold_start_s"] > report["rows"][1]["cold_start_s"] > 0.05  # torch is slow to load


def test_a_later_result_replaces_the_earlier(tiny_student: Bundle, copied: Copied, tiny_test: Dataset) -> None:
    bundle = copied(tiny_student)
    candidates = [bundle_candidate(bundle, name="student", form="fp32")]
    for rounds in (3, 4):
        bench_bundle(
            Bundle.open(bundle.path),
            candidates,
            tiny_test,
            teacher=None,
            settings=QUICK.model_copy(update={"rounds": rounds}),
            reporter=SilentReporter(),
        )
        kept = json.loads(Bundle.open(bundle.path).file("benchmark.json").read_text(encoding="utf-8"))
        assert len(kept["rows"][0]["latency_rounds_ms"]) == rounds
        assert kept["rows"][0]["p50_ratio_teacher"] is None


def test_a_folder_that_cannot_be_written_is_found_before_any_work(
    tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*arguments: object, **more: object) -> None:
        raise AssertionError("nothing may be measured before the folder is known to be writable")

    monkeypatch.setattr(bench, "measure", no_work)
    (tmp_path / "file").write_text("not a folder")
    candidates = [bundle_candidate(tiny_student, name="student", form="int8")]
    with pytest.raises(StorageError, match="cannot write"):
        bench_bundle(
            Bundle(tmp_path / "file", tiny_student.manifest),
            candidates,
            tiny_test,
            teacher=None,
            settings=QUICK,
            reporter=SilentReporter(),
        )
