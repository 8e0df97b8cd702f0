"""The training scenario: ratios computed by hand, and the peer's real loop on the tiny task."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.scenario import Context
from benchmarks.scenarios import training
from benchmarks.scenarios.training import TrainingSettings, figures, run, run_pair, said_of, table
from distill.bundle import Bundle
from distill.errors import PotstillError
from distill.progress import SilentReporter
from distill.settings import DataSettings, DistillSettings


def test_a_run_knows_its_rate_and_when_it_was_good_enough() -> None:
    run = {"epoch_ends_s": [10.0, 20.0, 40.0], "macro_f1": [0.7, 0.82, 0.81], "num_texts": 100}
    assert said_of(run, 0.8)["texts_per_second"] == 300 / 40
    assert [said_of(run, wanted)["seconds_to_97"] for wanted in (0.8, 0.82, 0.9)] == [20, 20, None]


def result(*pairs: tuple[float, float, float | None, float | None]) -> dict[str, Any]:
    shared = {"epoch_ends_s": [20, 60], "num_texts": 300}
    rows = [
        {"name": name, "seed": seed, "texts_per_second": rate, "seconds_to_97": seconds, "test_macro_f1": f1, **shared}
        for seed, (our_rate, their_rate, our_time, their_time) in enumerate(pairs)
        for name, rate, seconds, f1 in (
            ("potstill", our_rate, our_time, [0.7, 0.80 + seed / 100]),
            ("trainer", their_rate, their_time, [0.75, 0.83 + seed / 100]),
        )
    ]
    return {"rows": rows}


def test_a_ratio_above_one_says_that_potstill_is_faster() -> None:
    found = figures(result((30, 10, 5, 20), (40, 10, 5, 10), (50, 10, 10, 30)))
    assert found == {"texts_per_second_ratio_trainer": pytest.approx(4.0), "time_to_97_ratio_trainer": pytest.approx(3.0)}


def test_the_table_says_whose_student_is_better() -> None:
    shown = table(result((30, 10, 5, 20), (40, 10, 5, 10), (50, 10, 10, 30)))
    assert "| potstill | 40 | 7 | 0.8100 |" in shown
    # the ratios are 3, 4 and 5: standard error 1 / sqrt(3), t of two degrees of freedom 4.303
    assert "Texts a second, potstill over the Trainer: 4.00 (1.52 to 6.48)" in shown
    assert shown.endswith("macro-F1, potstill minus the Trainer: -0.0300 (-0.0300 to -0.0300). Better student: the Trainer's.")
    unsure = table(result((30, 10, 5, 20), (40, 10, 5, 10)) | {"rows": result((30, 10, 5, 20))["rows"]})
    assert "Means of 1 seeds, 2 epochs of 300 texts each" in unsure


def test_a_trainer_that_never_got_there_counts_with_all_its_time() -> None:
    assert figures(result((30, 10, 15, None)))["time_to_97_ratio_trainer"] == 60 / 15


def test_a_run_of_ours_that_never_got_there_gives_no_ratio_of_times() -> None:
    found = result((30, 10, 5, 20), (30, 10, None, 20))
    assert figures(found) == {"texts_per_second_ratio_trainer": 3.0}
    assert "| potstill | 30 | not reached |" in table(found)


def test_a_run_that_dies_or_hangs_is_said(tiny_teacher: Bundle, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSettings(train=(str(tiny_csv),))
    settings = DistillSettings(num_layers=2, epochs=1, max_length=4096)  # more than the teacher has positions for
    with pytest.raises(PotstillError, match=r"benchmarks\.scenarios\.training died with 1: .*positions for"):
        run_pair(tiny_teacher, settings, data)
    monkeypatch.setattr(training, "RUN_TIMEOUT_S", 0.01)
    with pytest.raises(PotstillError, match=r"took more than 0\.01 s and was ended"):
        run_pair(tiny_teacher, settings, data)


def test_each_seed_is_one_pair_and_a_finished_pair_is_kept(
    tmp_path: Path, tiny_teacher: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def pair(teacher: Bundle, settings: DistillSettings, data: DataSettings, unlabeled: Any) -> list[dict[str, Any]]:
        asked.append((settings.seed, settings.epochs))
        return [{"name": name, "seed": settings.seed, "of": teacher.path.name} for name in ("potstill", "trainer")]

    monkeypatch.setattr(training, "run_pair", pair)
    (tmp_path / "quality").mkdir()
    for seed in (0, 1):
        (tmp_path / "quality" / f"teacher-{seed}").symlink_to(tiny_teacher.path)
    context = Context(tmp_path, "training", SilentReporter())
    run(TrainingSettings(seeds=(0,), epochs=1), context)
    rows = run(TrainingSettings(seeds=(0, 1), epochs=1), context).rows
    assert asked == [(0, 1), (1, 1)]
    assert [(row["name"], row["seed"], row["of"]) for row in rows] == [
        (name, seed, f"teacher-{seed}") for seed in (0, 1) for name in ("potstill", "trainer")
    ]


def test_what_follows_an_epoch_is_counted_to_it(
    tiny_teacher: Bundle, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = ({"seconds": 2.0, "macro_f1": 0.7}, {"seconds": 3.0, "macro_f1": 0.8})
    manifest = SimpleNamespace(history=history, settings={"computed": {"mixed_precision": "no"}})
    monkeypatch.setattr("distill.training.distillation.fit_student", lambda *_, **__: SimpleNamespace(manifest=manifest))
    settings = DistillSettings(num_layers=2).model_dump(mode="json")
    given = {"teacher": str(tiny_teacher.path), "student": "", "settings": settings, "unlabeled": []}
    given["data"] = {"train": [str(tiny_csv)], "validation_share": 0.25}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    training._main()
    found = json.loads(capsys.readouterr().out)
    first, last = found["epoch_ends_s"]
    assert last - first == pytest.approx(3.0)  # the second epoch began when all of the first was done
    assert (found["macro_f1"], found["mixed_precision"], found["num_texts"]) == ([0.7, 0.8], "no", 300)


def test_the_peers_loop_learns_from_teacher_and_labels(tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path) -> None:
    from benchmarks.quality import trainer

    few = tmp_path / "few.csv"
    few.write_text("\n".join(tiny_csv.read_text().splitlines()[:61]) + "\n")
    how = {"temperature": 2.0, "soft_weight": 0.5, "learning_rate": 2e-3, "warmup_share": 0.1, "weight_decay": 0.01}
    how |= {"seed": 0, "dropout": 0.0, "max_length": 32, "epochs": 2, "batch_size": 16, "max_grad_norm": 1.0}
    data = {"train": [str(few)], "validation_share": 0.25}
    folders = dict.fromkeys(("teacher", "student"), str(tiny_teacher.path))
    found = trainer.run({"settings": how, "data": data, "unlabeled": [], **folders, "threads": 2, "bf16": False})
    assert found["num_texts"] == 45
    assert len(found["epoch_ends_s"]) == len(found["macro_f1"]) == 2
    assert max(found["macro_f1"]) > 0.7  # it starts from the teacher's own weights, and keeps what they know


@pytest.mark.slow
def test_both_sides_really_train_the_same_student_on_the_same_texts(
    tiny_teacher: Bundle, tiny_csv: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others.csv"
    others.write_text("text\n" + "\n".join(f"a film of {number} parts" for number in range(40)) + "\n")
    data = DataSettings(train=(str(tiny_csv),), validation_share=0.25)
    settings = DistillSettings(num_layers=2, epochs=4, patience=4, learning_rate=2e-3, batch_size=16, mixed_precision="no")
    ours, theirs = run_pair(tiny_teacher, settings, data, [str(others)])
    assert (ours["name"], theirs["name"]) == ("potstill", "trainer")
    for row in (ours, theirs):
        assert row["num_texts"] == 340
        assert len(row["epoch_ends_s"]) == 4
        assert list(row["epoch_ends_s"]) == sorted(row["epoch_ends_s"])
        assert max(row["test_macro_f1"]) > 0.7, row
