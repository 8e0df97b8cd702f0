"""Every measured number in the READMEs and in docs/ comes from a committed result file that names its command.

Numbers between markers are generated from the files (test_pages). Outside them, a number counts as measured if it has the
form of a measurement: decimals, a percentage, a factor, or a unit of time, size or rate. Each must be the value
of a constant that is named here, or generated from a figure that is named beside it. Code, link targets and versions after a
name do not count. docs/project/decisions/ is not read: each file there is a dated trial with its own circumstances.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.attacks.bombs import MOST_PEAK_BYTES
from benchmarks.attacks.trials import DEADLINE_MS as HONEST_MS
from benchmarks.attacks.trials import LEAST_SHARE, MOST_GROWTH_BYTES
from benchmarks.harness.results import FOLDER, read_result
from benchmarks.harness.scenario import scenarios
from benchmarks.report.pages import INLINE, pages_of, same_figures
from benchmarks.scenarios.int8 import WAYS
from benchmarks.scenarios.scale import Plan
from benchmarks.serving.figures import BUSY_SHARE
from benchmarks.serving.ours import DEADLINE_MS
from distill.scales import MIGRATION
from export.fitting.choose import NEAR_WITHIN
from export.fitting.job import TEST_SHARE
from export.measure.protocol import STEADY
from export.measure.statistics import BUSY_PROCESSORS, MIN_SAMPLES, NOISY_SPREAD
from export.measure.workers import ROOT
from export.web.browser import TOLERANCE
from serve.bulk.parts import MAX_DICTIONARY_BYTES
from serve.bulk.streams import FREE_BYTES, MAX_RATIO, XZ_MEMORY_BYTES

UNIT = r"(?:\s?%|x\b|\s?(?:ms|MB|GB|kB|µs|times)\b|\ss\b)"
MEASURED = re.compile(rf"(?<![\w.])\d[\d,]*(?:\.\d+)?{UNIT}|(?<![\w.])\d+\.\d+(?![\w.])")

KILLS = Plan().kills
# Numbers that are settings of the code, not measurements: sentence -> the number in the code.
SETTINGS = {
    f"{NEAR_WITHIN} nats": f"{NEAR_WITHIN}",
    f"with alpha {MIGRATION}": f"{MIGRATION}",
    f"with alpha {WAYS[4].migration} it is the same as with {MIGRATION}": f"{MIGRATION}",
    f"with alpha {WAYS[4].migration}": f"{WAYS[4].migration}",
    f"when {LEAST_SHARE:.0%}".replace("%", " %") + " of the honest requests": f"{LEAST_SHARE:.0%}".replace("%", " %"),
    f"within {HONEST_MS // 1000} s, the server's memory": f"{HONEST_MS // 1000} s",
    f"at most {MOST_GROWTH_BYTES >> 20} MB, no answer": f"{MOST_GROWTH_BYTES >> 20} MB",
    f"may take {MOST_PEAK_BYTES >> 20} MB more than": f"{MOST_PEAK_BYTES >> 20} MB",
    f"becomes {MAX_RATIO} times as large": f"{MAX_RATIO} times",
    f"({FREE_BYTES >> 20} MB are free)": f"{FREE_BYTES >> 20} MB",
    f"an xz file that needs more than {XZ_MEMORY_BYTES >> 20} MB": f"{XZ_MEMORY_BYTES >> 20} MB",
    f"a Parquet dictionary above {MAX_DICTIONARY_BYTES >> 20} MB": f"{MAX_DICTIONARY_BYTES >> 20} MB",
    "95 % interval": "95 %",
    "95 % bootstrap interval": "95 %",
    f"more than {BUSY_SHARE} of a processor": f"{BUSY_SHARE}",
    f"{KILLS} times": f"{KILLS} times",
    f"{TEST_SHARE:.0%}".replace("%", " %") + " of the training texts are cut off": f"{TEST_SHARE:.0%}".replace("%", " %"),
    f"with {DEADLINE_MS} ms to live": f"{DEADLINE_MS} ms",
    f"within {STEADY:.0%}".replace("%", " %"): f"{STEADY:.0%}".replace("%", " %"),
    f"more than {NOISY_SPREAD:.0%}".replace("%", " %"): f"{NOISY_SPREAD:.0%}".replace("%", " %"),
    **{f"{tolerance} with the {graph} graph": f"{tolerance}" for graph, tolerance in TOLERANCE.items()},
}
VERSIONS = re.compile(r"(?:Python|CycloneDX|ONNX Runtime|ORT|opset|Apache-|BSD-)\s?\d+(?:\.\d+)*")


def body_of(page: str) -> str:
    """Return what a page says outside markers, code, links, dates and versions."""
    page = INLINE.sub(" ", re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", " ", page, flags=re.DOTALL))
    page = re.sub(r"```.*?```", " ", page, flags=re.DOTALL)
    page = re.sub(r"`[^`]*`", " ", page)
    page = re.sub(r"\]\([^)]*\)|https?://\S+|\d{4}-\d\d-\d\d", " ", page)
    return VERSIONS.sub(" ", page)


def measured_in(body: str) -> Iterator[str]:
    """Yield the numbers that have the form of measured ones and are no setting."""
    flat = " ".join(body.split())
    for sentence, number in SETTINGS.items():
        flat = flat.replace(sentence, sentence.replace(number, ""))
    for found in MEASURED.finditer(flat):
        yield found.group()


@pytest.mark.parametrize("path", pages_of(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_measured_number_in_a_readme_is_a_figure_of_a_result(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    typed = list(measured_in(body_of(page)))
    assert not typed, f"{path.relative_to(ROOT)}: {typed} are typed by hand; write <!-- SCENARIO.FIGURE:FORMAT --><!-- / -->"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_names_the_command_that_made_it_and_its_figures_follow_from_its_rows(path: Path) -> None:
    result = read_result(path.stem)
    assert result["command"].startswith(f"python -m benchmarks {path.stem}")
    assert result["environment"]["git_commit"]
    assert same_figures(scenarios()[path.stem].figures(result), result["figures"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It keeps 99.7 % of it.", ["99.7 %"]),
        ("1.5x faster, 12 ms, 3 MB, twice", ["1.5x", "12 ms", "3 MB"]),
        ("Python 3.11, 2,000 texts, seed 0, `0.97`, 2026-11-24", []),
        ("its 95 % interval is 0.84", ["0.84"]),
        ("| 0.7975 | 17.96x |", ["0.7975", "17.96x"]),
        ("<!-- demo -->\n| 0.9 |\n<!-- /demo -->", []),
        ("It is <!-- demo.p50_ratio_teacher:.1f -->10.8<!-- / --> times as fast, or 2.5x.", ["2.5x"]),
    ],
)
def test_what_counts_as_measured(text: str, found: list[str]) -> None:
    assert list(measured_in(body_of(text))) == found


def test_the_thresholds_in_the_readme_are_those_of_the_code() -> None:
    page = " ".join((ROOT / "docs" / "evidence" / "how-it-is-measured.md").read_text(encoding="utf-8").split())
    assert f"p90 needs {MIN_SAMPLES[90]} samples and p99 needs {MIN_SAMPLES[99]}" in page
    assert "a tenth of a processor" in page
    assert BUSY_PROCESSORS == 0.1
