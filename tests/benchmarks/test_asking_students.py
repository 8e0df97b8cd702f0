"""Students of a model behind an address: the figures by hand, how a less sure model answers, and all of it on a tiny task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_task import tiny_texts, write_csv

from benchmarks.asking.scripted_address import Received, drawn
from benchmarks.asking.students import OTHER_WORDS, Bench, Study, _less_sure, make_students, student_figures
from benchmarks.asking.unsure import make_unsure, unsure_table
from benchmarks.harness.pieces import Rows
from distill.bundle import Bundle
from distill.progress import SilentReporter
from distill.settings import DataSettings, DistillSettings

LABELS = ("negative", "positive")


def student(way: str, macro_f1: float, ece: float) -> dict[str, object]:
    return {"kind": "student", "way": way, "macro_f1": macro_f1, "expected_calibration_error": ece}


def test_the_figures_compare_the_means_over_the_seeds() -> None:
    rows = [student("direct", 0.8, 0.1), student("asked", 0.76, 0.1), student("soft", 0.7, 0.02), student("soft", 0.7, 0.04)]
    assert student_figures(rows) == {"share_of_direct": pytest.approx(0.95)}  # no hard one yet
    rows += [student("hard", 0.7, 0.08), student("hard", 0.7, 0.12), {"kind": "kill", "lost": 0}]
    assert student_figures(rows)["soft_ece_ratio"] == pytest.approx(0.03 / 0.1)


def test_a_less_sure_model_confuses_some_texts_and_thinks_of_other_words() -> None:
    texts = [f"text {number}" for number in range(2000)]
    study = Study(DataSettings(train=("texts.csv",)), wrong=0.05, stray=0.1)
    answer = _less_sure({text: {"negative": 0.2, "positive": 0.8} for text in texts}, study)
    found = [answer(text, LABELS) for text in texts]
    assert found == [answer(text, LABELS) for text in texts]
    assert {round(sum(shares.values()), 9) for shares in found} == {1.0}
    assert {round(sum(shares[word] for word in OTHER_WORDS), 9) for shares in found} == {0.1}
    confused = [shares["negative"] > shares["positive"] for shares in found]
    assert np.mean(confused) == pytest.approx(0.05, abs=0.015)  # three standard errors
    assert found[confused.index(True)]["negative"] == pytest.approx(0.9 * 0.8)


def test_at_a_temperature_labels_are_drawn_by_their_probabilities() -> None:
    def share_of_negative(temperature: float) -> float:
        requests = [Received(f"text {number}", LABELS, {"temperature": temperature}, "") for number in range(2000)]
        return float(np.mean([drawn({"negative": 0.2, "positive": 0.7, "mixed": 0.1}, one) == "negative" for one in requests]))

    assert share_of_negative(0) == 0
    assert share_of_negative(1) == pytest.approx(0.2 / 0.9, abs=0.03)
    assert share_of_negative(2) == pytest.approx(0.2**0.5 / (0.2**0.5 + 0.7**0.5), abs=0.03)


def test_the_table_of_unsure_answers_has_each_way_and_what_was_chosen() -> None:
    rows: list[dict[str, object]] = [{"kind": "kill", "lost": 0}]
    for seed, chosen in enumerate(("weigh", "keep")):
        rows.append({"kind": "choice", "seed": seed, "way": chosen})
        for way, macro_f1 in (("soft", 0.7), ("weigh", 0.8), ("leave_out", 0.6)):
            rows.append({**student(way, macro_f1 + 0.02 * seed, 0.1), "seed": seed})
    assert unsure_table(rows).splitlines()[2:] == [
        "| all count alike | 2 | 0.7100 | 0.1000 | 1 |",
        "| weighed by their certainty | 2 | 0.8100 | 0.1000 | 1 |",
        "| the least certain fifth of each label left out | 2 | 0.6100 | 0.1000 | 0 |",
        "| the chosen way of each seed | 2 | 0.7600 | 0.1000 |  |",  # 0.8 and 0.72
    ]
    assert unsure_table(rows[:1]) == ""


def test_finished_rows_of_unsure_answers_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[object] = []

    def teach(_: Bench, way: str, seed: int, changes: dict[str, str]) -> dict[str, float]:
        taught.append((way, seed, changes["unsure"]))
        return {"macro_f1": 0.7}

    monkeypatch.setattr("benchmarks.asking.unsure.taught", teach)
    monkeypatch.setattr("benchmarks.asking.unsure._chosen", lambda *_: {"way": "keep", "tried": []})
    bench = Bench(Study(DataSettings(train=("texts.csv",)), seeds=(0,)), tmp_path, Rows(tmp_path), SilentReporter())
    bench.rows.keep({"name": "student-soft-0", "kind": "student"})
    for _ in range(2):
        make_unsure(bench)
    assert taught == [("weigh", 0, "weigh"), ("leave_out", 0, "leave_out")]
    assert [row["name"] for row in bench.rows.all()] == [
        *("choice-0", "student-leave_out-0", "student-soft-0", "student-weigh-0")
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_students_learn_from_a_teacher_behind_an_address_as_from_the_teacher(
    tiny_teacher: Bundle, tiny_model: Path, tmp_path: Path
) -> None:
    train = write_csv(tmp_path / "train.csv", tiny_texts(300))
    test = write_csv(tmp_path / "test.csv", tiny_texts(200, seed=1))
    study = Study(
        DataSettings(train=(str(train),), test=str(test), validation_share=0.2),
        teacher=tiny_teacher.path,
        seeds=(0,),
        settings=DistillSettings(
            student=str(tiny_model), num_layers=2, soft_weight=1.0, epochs=4, learning_rate=2e-3, batch_size=16, max_length=32
        ),
    )
    bench = Bench(study, tmp_path / "work", Rows(tmp_path / "work" / "rows"), SilentReporter())
    make_students(bench)
    rows = bench.rows.all()
    assert [row["name"] for row in rows] == [f"student-{way}-0" for way in ("asked", "direct", "hard", "soft")]
    asked, direct, hard, soft = rows
    # The probabilities come back as they were sent, so it is the same student.
    assert asked["macro_f1"] == pytest.approx(direct["macro_f1"], abs=0.01)
    assert direct["macro_f1"] > 0.9
    assert hard["right_labels"] < soft["right_labels"] == pytest.approx(0.95, abs=0.04)
    assert student_figures(rows)["share_of_direct"] == pytest.approx(1, abs=0.01)
    before = (tmp_path / "work" / "answers" / "answers.jsonl").stat().st_mtime_ns
    make_students(Bench(study, tmp_path / "work", bench.rows, SilentReporter()))
    assert (tmp_path / "work" / "answers" / "answers.jsonl").stat().st_mtime_ns == before
