"""The scenario `ablations`: gains from rows written by hand, and arms trained on the tiny task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_task import tiny_texts

from benchmarks.ablations.gains import ablation_figures, ablation_table, gains_of, missing_of, picture_of_gains
from benchmarks.ablations.levers import AMAZON, ARMS, LEVERS, MOVIES, SEEDS, THREE_WAY, Arm
from benchmarks.ablations.training import Work, make_row
from benchmarks.harness.pieces import Rows
from benchmarks.harness.results import write_result
from benchmarks.harness.scenario import Context, Outcome
from benchmarks.scenarios import ablations
from benchmarks.scenarios.ablations import AblationSettings, run
from benchmarks.transfer.bench import Bench, Texts
from distill.data import Dataset
from distill.errors import SettingsError
from distill.losses.objective import TOKEN_LEVEL
from distill.progress import SilentReporter
from distill.recipes import Recipe
from distill.settings import DistillSettings
from distill.teacher_settings import TeacherSettings
from export.measure.circumstances import circumstances

TRUE = "01" * 20
BAD = "10" * 4 + TRUE[8:]  # 8 of 40 wrong, as many of each label: macro-F1 0.8
QUIET = SilentReporter()


def row(arm: str, seed: int, predicted: str, **more: Any) -> dict[str, Any]:
    return {"name": f"{arm}-{seed}", "arm": arm, "seed": seed, "predicted": predicted, "seconds": 10.0, **more}


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "test_labels": dict.fromkeys((MOVIES, AMAZON, THREE_WAY), TRUE), "missing": missing_of(rows)}


ROWS = [
    *(row("narrow_whole", seed, BAD) for seed in SEEDS),
    *(row("relations", seed, TRUE, seconds=25.0) for seed in SEEDS),
    *(row("hidden", seed, TRUE) for seed in SEEDS[:1]),  # not with every seed
    *(row("chain", seed, TRUE, before=TRUE) for seed in SEEDS),
    *(row("anchor", seed, BAD, before=TRUE) for seed in SEEDS),
]


def test_a_gain_is_the_lever_minus_its_control_on_the_same_seeds_and_texts() -> None:
    found = gains_of(result(ROWS))
    assert list(found) == ["relations", "hidden", "anchor"]
    assert ablation_figures(result(ROWS)) == pytest.approx({"gain_relations": 0.2, "gain_hidden": 0.2, "gain_anchor": -0.2})
    assert (found["relations"].without, found["relations"].times) == pytest.approx((0.8, 2.5))
    assert found["relations"].gain.low > 0
    assert found["relations"].before is None
    assert found["anchor"].before is not None
    assert found["anchor"].before.value == 0


def test_a_verdict_needs_an_interval_on_one_side_of_zero() -> None:
    unclear = [row("lora", seed, TRUE if seed else BAD, before=TRUE) for seed in SEEDS]
    found = gains_of(result([*ROWS, *unclear]))
    assert {name: each.verdict for name, each in found.items()} == {
        "relations": "helps",
        "hidden": "too few seeds",
        "anchor": "harms",
        "lora": "not shown",
    }


def test_what_gains_nothing_may_forget_less_of_the_earlier_task() -> None:
    forgetful = [{**each, "before": BAD} if each["arm"] == "chain" else each for each in ROWS]
    found = gains_of(result([*forgetful, *(row("replay", seed, TRUE, before=TRUE) for seed in SEEDS)]))
    assert (found["replay"].verdict, found["anchor"].verdict) == ("forgets less", "harms")


def test_the_table_shows_gains_in_points_and_counts_what_is_missing() -> None:
    table = ablation_table(result(ROWS))
    line = next(line for line in table.splitlines() if "relations of the last layer" in line)
    assert "0.800 | +20.0 (" in line
    assert "2.5x" in line
    missing = len(ARMS) * len(SEEDS) - len(ROWS)
    assert f"missing runs: {missing};" in table


def test_the_picture_names_each_lever_that_was_tried() -> None:
    picture = picture_of_gains(result(ROWS))
    assert LEVERS["relations"].shown_as in picture
    assert LEVERS["lora"].shown_as not in picture


def test_every_lever_differs_from_its_control_in_one_thing() -> None:
    for name, lever in LEVERS.items():
        ours, theirs = ARMS[lever.arm], ARMS[lever.control]
        assert (ours.task, ours.is_chain, ours.share, ours.tables) == (
            theirs.task,
            theirs.is_chain,
            theirs.share,
            theirs.tables,
        )
        changes = {*ours.changes.items()} ^ {*theirs.changes.items()}
        differing = {setting for setting, _ in changes} | {
            each for each in ("teachers", "unlabeled") if getattr(ours, each) != getattr(theirs, each)
        }
        of_words = {"vocabulary_size", "vocabulary_characters"}
        # Fewer columns instead of fewer tokens are one thing, of as many bytes.
        expected = {
            "whole_vocabulary": of_words,
            "factorised": {*of_words, "embedding_size"},
            "lora_faster": {"lora_rank", "learning_rate"},  # the rate is LoRA's own
        }.get(name)
        assert differing == expected if expected else len(differing) == 1, name


def test_what_compares_token_by_token_keeps_the_vocabulary_of_the_teacher() -> None:
    for name, arm in ARMS.items():
        terms = [loss.partition("=")[0] for loss in arm.changes.get("losses", ())]
        if set(terms) & set(TOKEN_LEVEL):
            assert arm.changes["vocabulary_size"] is None, name


def test_an_unknown_lever_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no lever is called 'magic'; there are relations"):
        run(AblationSettings(levers=("magic",)), Context(tmp_path, "ablations", QUIET))


def test_a_run_that_is_stopped_leaves_its_rows_in_the_result_and_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "builtin", lambda self, name: _texts(1))
    made: list[str] = []

    def make(work: Work, name: str, arm: Arm, seed: int) -> None:
        if work.rows.has(f"{name}-{seed}"):
            return
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(name)
        work.rows.keep(row(name, seed, TRUE))

    monkeypatch.setattr(ablations, "make_row", make)
    settings = AblationSettings(levers=("logits",), seeds=(0,))
    saved: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        run(settings, Context(tmp_path / "first", "ablations", QUIET, out=tmp_path, save=saved.append))
    (left,) = saved
    assert [each["name"] for each in left.rows] == ["narrow-0"]
    write_result(
        "ablations", command="a test", environment=circumstances(), rows=left.rows, figures={}, folder=tmp_path, **left.parts
    )
    made.clear()
    done = run(settings, Context(tmp_path / "second", "ablations", QUIET, out=tmp_path))
    assert made == ["logits"]
    assert [each["name"] for each in done.rows] == ["logits-0", "narrow-0"]


def _texts(seed: int) -> Texts:
    parts = [tiny_texts(count, seed=10 * seed + place) for place, count in enumerate((240, 60, 40))]
    return Texts(*(Dataset.from_texts([text for text, _ in part], [label for _, label in part]) for part in parts))


@pytest.fixture
def work(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Return a place to train arms on the tiny task, in the name of every built-in set."""
    sets = {MOVIES: _texts(1), AMAZON: _texts(2)}
    monkeypatch.setattr(Bench, "builtin", lambda self, name: sets[name])
    few = DistillSettings(num_layers=1, learning_rate=2e-3, batch_size=16, soft_weight=0.9)
    return Work(
        tmp_path,
        Rows(tmp_path / "rows"),
        QUIET,
        model=str(tiny_model),
        teacher=TeacherSettings(epochs=4, learning_rate=2e-3, max_length=32, batch_size=16),
        recipe=Recipe("narrow", "one layer", few, views=1_000),
    )


TRIED = {
    "relations": Arm(changes={"losses": ("relations=1",)}),
    "two teachers and further texts": Arm(changes={"unlabeled_agreed": True}, unlabeled=50, teachers=2),
    "int4": Arm(tables="int4"),
    "replay": Arm(AMAZON, {"replay_share": 0.5}, is_chain=True),
}


@pytest.mark.parametrize("arm", TRIED.values(), ids=TRIED)
def test_an_arm_is_trained_and_answers_every_test_text(work: Work, arm: Arm) -> None:
    make_row(work, "tried", arm, 0)
    found = work.rows.find("tried-0")
    assert len(found["predicted"]) == 40
    assert found["macro_f1"] > 0.6
    assert found["seconds"] > 0
    assert ("before" in found) == arm.is_chain
    assert not list(work.folder.glob(".cell-*"))


def test_a_finished_row_is_not_made_again_unless_the_arm_was_another(work: Work) -> None:
    make_row(work, "tried", Arm(), 0)
    made = work.rows.find("tried-0")["made"]
    work.rows.put("tried-0", {**work.rows.find("tried-0"), "predicted": TRUE})
    make_row(work, "tried", Arm(), 0)
    assert work.rows.find("tried-0")["predicted"] == TRUE
    make_row(work, "tried", Arm(changes={"temperature": 1.0}), 0)
    found = work.rows.find("tried-0")
    assert (found["is"]["changes"], found["made"].keys()) == ({"temperature": 1.0}, made.keys())
    assert found["predicted"] != TRUE
