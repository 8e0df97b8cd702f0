"""What the rows of the `quality` scenario say: means over seeds, paired intervals, and the figures.

Pure functions over rows; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.arms import ARMS, SEEDS, TEACHER
from distill.data import Dataset
from distill.errors import PotstillError
from distill.evaluation.intervals import Bootstrap, Estimate, mean_of
from distill.evaluation.proof import verdict_in_words
from distill.settings import Precision
from export.measure.tables import ABSENT

COMMAND: Final = "python -m benchmarks quality"
GAIN: Final = "gain_over_control_2_layers"
RETENTIONS: Final = {
    "retention_3_layers": "3_layers",
    "retention_2_layers": "2_layers",
    "retention_1_layer": "1_layer",
    "retention_narrow": "narrow",
    "retention_static": "static",
}
DIFFERENCES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "vocabulary_cost": (
        ("1_layer_whole_vocabulary", "1_layer"),
        ("2_layers_whole_vocabulary", "2_layers"),
        ("3_layers_whole_vocabulary", "3_layers"),
        ("static_whole_vocabulary", "static"),
    ),
    GAIN: (("2_layers", "2_layers_control"),),
}
"""Figure -> pairs of arms whose macro-F1 is subtracted, the second from the first; the figure is the mean over the pairs."""

_AVERAGED: Final = (
    "accuracy",
    "agreement",
    "expected_calibration_error",
    "brier_score",
    "negative_log_likelihood",
    "training_s",
)
_OF_SPEED: Final = ("size_bytes", "p50_ms", "p90_ms", "p50_ratio_teacher", "texts_per_second", "cold_start_s", "peak_rss_bytes")

Rows = Sequence[Mapping[str, Any]]


def summary_of(rows: Rows, test: Dataset, *, speed: Rows = (), seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
    """Return one row per arm over all seeds: means, and intervals from paired resamples of texts and seeds.

    Args:
        rows: One per arm, seed and precision.
        test: The texts that the rows answered.
        speed: Rows with the speed of what ships.
        seeds: Every arm must have been run with each of these.

    Raises:
        PotstillError: A run of the teachers is missing, or a row was made on other test texts.
    """
    runs = _predictions(rows, test, seeds, "fp32")
    if TEACHER not in runs:
        raise PotstillError(f"not every reference teacher has a row; run `{COMMAND}` to make them")
    int8 = _predictions(rows, test, seeds, "int8")
    speed_of = {row["name"]: row for row in speed}
    bootstrap = Bootstrap(test.label_ids, num_labels=len(test.labels), num_seeds=len(seeds))
    teacher = bootstrap.macro_f1(runs[TEACHER])
    summary = []
    for name, predicted in runs.items():
        mine = [row for row in rows if (row["name"], row["precision"]) == (name, "fp32") and row["seed"] in seeds]
        figure = bootstrap.macro_f1(predicted)
        row = {
            "name": name,
            "shown_as": "reference teacher, 6 layers" if name == TEACHER else ARMS[name].shown_as,
            "seeds": list(seeds),
            "macro_f1": asdict(figure.estimate()),
            "retention": asdict((figure / teacher).estimate()),
            **{key: float(np.mean([row[key] for row in mine])) for key in _AVERAGED},
            "num_parameters": mine[0]["num_parameters"],
            "multiply_adds_per_token": mine[0]["multiply_adds_per_token"],
            **{key: speed_of.get(name, {}).get(key) for key in _OF_SPEED},
        }
        if name in int8:
            quantized = bootstrap.macro_f1(int8[name])
            row |= {"int8_macro_f1": asdict(quantized.estimate()), "int8_drop": asdict((figure - quantized).estimate())}
        summary.append(row)
    return summary


def differences_of(rows: Rows, test: Dataset, *, seeds: Sequence[int] = SEEDS) -> dict[str, Estimate]:
    """Return the paired differences in macro-F1 of `DIFFERENCES` whose arms were all run with every seed."""
    runs = _predictions(rows, test, seeds, "fp32")
    bootstrap = Bootstrap(test.label_ids, num_labels=len(test.labels), num_seeds=len(seeds))
    of_arm = {name: bootstrap.macro_f1(predicted) for name, predicted in runs.items()}
    return {
        figure: mean_of([of_arm[first] - of_arm[second] for first, second in pairs]).estimate()
        for figure, pairs in DIFFERENCES.items()
        if all(name in of_arm for pair in pairs for name in pair)
    }


def quality_figures(summary: Rows, differences: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the scenario's figures from the summary and the differences as they stand in the result file.

    A figure whose arms were not run with every seed is not there.
    """
    by_name = {row["name"]: row for row in summary}
    retentions = {figure: by_name[name]["retention"]["value"] for figure, name in RETENTIONS.items() if name in by_name}
    return {
        "teacher_macro_f1": by_name[TEACHER]["macro_f1"]["value"],
        **retentions,
        **{figure: differences[figure]["value"] for figure in DIFFERENCES if figure in differences},
    }


def verdict_of_quality(differences: Mapping[str, Mapping[str, float]], missing: Sequence[str], *, num_seeds: int) -> str:
    """Return in words what the control says of distillation, and which runs the result still lacks."""
    control = differences.get(GAIN)
    said = "" if control is None else verdict_in_words(Estimate(**control), num_seeds=num_seeds)
    return f"{said} Unfinished: {len(missing)} runs are missing ({', '.join(missing)}).".strip() if missing else said


def _predictions(rows: Rows, test: Dataset, seeds: Sequence[int], precision: Precision) -> dict[str, NDArray[np.int64]]:
    """Return the answers of each arm that was run with every seed, shape (seeds, texts), the teacher's first."""
    for row in rows:
        if row["test_fingerprint"] != test.fingerprint():
            raise PotstillError(f"the row of {row['name']}, seed {row['seed']}, was made on other test texts")
    found = {(row["name"], row["seed"]): row["predicted"] for row in rows if row["precision"] == precision}
    return {
        name: np.array([[int(digit) for digit in found[name, seed]] for seed in seeds])
        for name in (TEACHER, *ARMS)
        if all((name, seed) in found for seed in seeds)
    }


def markdown_of_summary(summary: Rows) -> str:
    """Return the summary as a Markdown table: quality over seeds beside the speed of what ships."""
    columns = (
        "student",
        "macro-F1",
        "kept",
        "95 % interval",
        "int8 macro-F1",
        "agrees",
        "calibration error",
        "p50 ms",
        "faster",
    )
    lines = ["| " + " | ".join((*columns, "ships MB")) + " |", "|---|" + "--:|" * len(columns)]
    for row in summary:
        kept, int8, p50 = row["retention"], row.get("int8_macro_f1"), row["p50_ms"]
        cells = (
            row["shown_as"],
            f"{row['macro_f1']['value']:.4f}",
            f"{kept['value']:.1%}",
            f"{kept['low']:.1%}-{kept['high']:.1%}",
            f"{int8['value']:.4f}" if int8 else ABSENT,
            f"{row['agreement']:.1%}",
            f"{row['expected_calibration_error']:.3f}",
            f"{p50:.2f}" if p50 else ABSENT,
            f"{row['p50_ratio_teacher']:.1f}x" if p50 else ABSENT,
            f"{row['size_bytes'] / 1e6:.1f}" if p50 else ABSENT,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
