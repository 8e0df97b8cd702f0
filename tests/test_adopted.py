"""Every command that is given a Hugging Face classifier: it runs, or one line says what would make it run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hugging_face import save_random, save_trained
from tiny_task import Outcome, tiny_texts, write_csv

from distill.bundle import Bundle

Run = Callable[..., Outcome]
FAST = ("--num-layers", 1, "--epochs", 1, "--max-length", 32)
QUICK = ("--rounds", 3, "--texts-per-round", 5, "--settle-s", 0.1, "--throughput-rounds", 3, "--throughput-texts", 8)


@pytest.fixture(scope="module")
def measuring_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "test.csv", tiny_texts(200, seed=1))


@pytest.fixture(scope="module")
def unnamed(tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier whose LABEL_0 is positive."""
    return save_trained(tmp_path_factory.mktemp("unnamed") / "hf", tiny_teacher, ("LABEL_0", "LABEL_1"), flipped=True)


@pytest.fixture(scope="module")
def swapped(tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier that says positive where a text is negative."""
    return save_trained(tmp_path_factory.mktemp("swapped") / "hf", tiny_teacher, ("negative", "positive"), flipped=True)


@pytest.mark.parametrize(
    "command", ["adopt", "distill", "export", "eval", "bench", "predict", "serve", "score", "inspect", "sign"]
)
def test_a_folder_that_is_not_there_is_one_line(command: str, potstill: Run, tmp_path: Path, measuring_csv: Path) -> None:
    flags = {
        "adopt": ("--out", tmp_path / "out"),
        "distill": ("--train", measuring_csv, "--out", tmp_path / "out"),
        "export": ("--validation", measuring_csv, "--out", tmp_path / "out"),
        "eval": ("--test", measuring_csv),
        "bench": ("--test", measuring_csv),
        "predict": ("a text",),
        "score": ("--input", measuring_csv, "--output", tmp_path / "out"),
        "sign": ("--key", tmp_path / "key.pem"),
    }
    done = potstill(command, tmp_path / "none", *flags.get(command, ()))
    assert (done.code, done.out) == (3, "")
    assert f"{tmp_path / 'none'} is not a folder" in done.complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "serve", "score", "inspect"])
@pytest.mark.parametrize("source", ["folder", "hub"])
def test_what_needs_a_graph_names_the_line_that_makes_one(
    command: str, source: str, unnamed: Path, potstill: Run, tmp_path: Path, measuring_csv: Path
) -> None:
    given = unnamed if source == "folder" else "hub:someone/classifier"
    flags = {"predict": ("a text",), "score": ("--input", measuring_csv, "--output", tmp_path / "out")}
    done = potstill(command, given, *flags.get(command, ()))
    assert done.code == 3
    assert f"`potstill export {given} --out BUNDLE --validation FILE`" in done.complaint


def test_an_adopted_bundle_without_graphs_names_the_line_that_makes_them(
    potstill: Run, tiny_model: Path, tmp_path: Path
) -> None:
    folder, out = save_random(tmp_path / "hf", tiny_model), tmp_path / "bundle"
    assert potstill("adopt", folder, "--out", out).code == 0
    for command in ("predict", "serve"):
        done = potstill(command, out, *(["a text"] if command == "predict" else []))
        assert done.code == 3
        assert f"`potstill export {out} --validation FILE`" in done.complaint
    assert "Adopted from a fine-tuned Hugging Face checkpoint" in potstill("inspect", out).out


def test_eval_matches_the_labels_and_says_so(unnamed: Path, swapped: Path, potstill: Run, measuring_csv: Path) -> None:
    done = potstill("eval", unnamed, "--test", measuring_csv, "--json")
    assert done.code == 0, done.err
    assert f"adopt: matched on 200 {measuring_csv} texts: LABEL_0 = positive, LABEL_1 = negative" in done.err
    (right,) = json.loads(done.out)["rows"]
    assert right["macro_f1"] > 0.9
    (wrong,) = json.loads(potstill("eval", swapped, "--test", measuring_csv, "--json").out)["rows"]
    assert wrong["macro_f1"] < 0.1  # measured as it is: its names are swapped


@pytest.mark.slow
def test_bench_measures_a_classifier_that_is_no_bundle(unnamed: Path, potstill: Run, measuring_csv: Path) -> None:
    done = potstill("bench", unnamed, "--test", measuring_csv, *QUICK, "--json")
    assert done.code == 0, done.err
    assert "LABEL_0 = positive" in done.err
    (row,) = json.loads(done.out)["rows"]
    assert (row["runtime"], row["macro_f1"] > 0.9) == ("pytorch", True)


def test_a_classifier_with_swapped_labels_teaches_nobody(
    swapped: Path, potstill: Run, tmp_path: Path, tiny_csv: Path, measuring_csv: Path
) -> None:
    out = tmp_path / "out"
    for command, flags in (("export", ("--validation", measuring_csv)), ("distill", ("--train", tiny_csv, *FAST))):
        done = potstill(command, swapped, "--out", out, *flags)
        assert done.code == 4
        assert "'negative' -> 'positive'" in done.complaint
        assert not (out / "manifest.json").exists()


def test_class_ids_keep_their_names_when_the_classifier_has_them_in_another_order(
    unnamed: Path, potstill: Run, tmp_path: Path
) -> None:
    rows = [(text, str(int(label == "positive"))) for text, label in tiny_texts(400)]
    data = ("--train", write_csv(tmp_path / "ids.csv", rows), "--labels", "negative", "positive")
    done = potstill("distill", unnamed, *data, "--out", tmp_path / "student", *FAST)
    assert done.code == 0, done.err
    assert "LABEL_0 = positive, LABEL_1 = negative" in done.err
    done = potstill("export", unnamed, *data, "--out", tmp_path / "exported")
    assert done.code == 0, done.err
    for made in ("student", "exported"):
        assert Bundle.open(tmp_path / made).labels == ("positive", "negative")
    said = potstill("predict", tmp_path / "exported", "lovely great moving film", "dull awful boring plot")
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["positive", "negative"]
