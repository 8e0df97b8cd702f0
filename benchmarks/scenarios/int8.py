"""The scenario `int8`: what each way of making an int8 graph changes against fp32, and whether a text's answer is its own.

Times nothing. The texts are training and validation texts, because the way that ships was chosen by these figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import Field

from benchmarks.harness.deciding import INT8
from benchmarks.harness.scenario import QUALITY, Columns, Context, Outcome, Result, Scenario, slug_of, table_of
from distill.bundle import Bundle
from distill.data import load_splits
from distill.labels import Logits, task_of
from distill.progress import Reporter
from distill.scales import MIGRATION, SEVEN_BIT_LIMIT, ChannelRange, InputScales, input_scales
from distill.settings import DataSettings, Settings
from export.int8.calibration import channel_ranges
from export.int8.invariance import compare_alone_and_in_batches
from export.int8.linear import linear_inputs, linear_layers
from export.int8.quantize import Quantization, quantize
from export.runtime.sessions import OnnxClassifier


@dataclass(frozen=True)
class Way:
    """A way of making the int8 graph.

    Attributes:
        name: As the table has it.
        how: What the quantizer is told.
        migration: SmoothQuant's alpha; None is one scale for all channels of an input.
    """

    name: str
    how: Quantization = field(default_factory=Quantization)
    migration: float | None = MIGRATION


WAYS = (
    Way("dynamic scales, the usual way, per channel", Quantization(activations="dynamic")),
    Way("fixed, one scale per tensor", migration=None),
    Way("fixed, balanced with alpha 0.7", migration=0.7),
    Way("fixed, balanced with alpha 0.8"),
    Way("fixed, balanced with alpha 0.9", migration=0.9),
    Way("alpha 0.8, weights of 7 bits", Quantization(weight_limit=SEVEN_BIT_LIMIT)),
    Way("alpha 0.8, 4-bit embeddings", Quantization(embeddings="int4")),
    Way("alpha 0.8, fp32 embeddings", Quantization(embeddings="fp32")),
)


def run_int8_ways(
    bundle: Bundle, *, texts: Sequence[str], calibration: Sequence[str], reporter: Reporter
) -> list[dict[str, Any]]:
    """Return a row for each way.

    Args:
        bundle: A classifier with weights.
        texts: What fp32 and int8 are compared on.
        calibration: Texts that fixed scales are taken from, at most 400 of them.
        reporter: Told of progress.
    """
    from distill.models.loading import load_bundle
    from export.graph.fused import write_fused_graph

    fp32 = write_fused_graph(load_bundle(bundle))
    ranges = channel_ranges(fp32, linear_inputs(fp32), texts=calibration, tokenizer=bundle.tokenizer())
    exact = OnnxClassifier.of_graph(fp32.SerializeToString(), bundle).predict_logits(texts)
    rows = []
    for way in WAYS:
        reporter.say(f"int8: {way.name}")
        graph = quantize(fp32, _scales(fp32, ranges, way), way.how)
        classifier = OnnxClassifier.of_graph(graph.SerializeToString(), bundle)
        alone = np.concatenate([classifier.predict_logits([text]) for text in texts])
        batches = compare_alone_and_in_batches(classifier, texts)
        rows.append(
            {
                "name": way.name,
                **changes(exact, alone, bundle.manifest.problem_type),
                "labels_changed_by_batch": batches.labels_changed_by_batch,
                "probability_change_by_batch": batches.probability_change_by_batch,
                "num_texts": len(texts),
                "num_texts_in_batches": batches.num_texts,
                "graph_bytes": graph.ByteSize(),
            }
        )
    return rows


def changes(exact: Logits, found: Logits, problem_type: Any) -> dict[str, float]:
    """Return how many texts have another top label, and the mean over texts of the largest change of a probability."""
    one, other = map(task_of(problem_type).probabilities, (exact, found))
    return {
        "labels_changed": int((exact.argmax(axis=1) != found.argmax(axis=1)).sum()),
        "probability_change_mean": float(np.abs(one - other).max(axis=1).mean()),
    }


def int8_figures(result: Result) -> dict[str, float]:
    """Return the figures of the scenario from its rows."""
    names = ("labels_changed", "probability_change_mean", "labels_changed_by_batch", "probability_change_by_batch")
    return {f"{slug_of(row['name'])}_{name}": row[name] for row in result["rows"] for name in names}


def int8_table(result: Result) -> str:
    """Return a line per way."""
    row = result["rows"][0]
    return (
        f"{table_of(result['rows'], COLUMNS)}\n\n{row['num_texts']:,} training and validation texts of the movie task, int8 "
        f"against fp32, one text at a time; {row['num_texts_in_batches']:,} of them again in batches of 32."
    )


COLUMNS: Columns = (
    ("int8", lambda row: row["name"]),
    ("labels changed", lambda row: str(row["labels_changed"])),
    ("mean change", lambda row: f"{row['probability_change_mean']:.4f}"),
    ("labels changed by batching", lambda row: str(row["labels_changed_by_batch"])),
    ("largest change by batching", lambda row: f"{row['probability_change_by_batch']:.3f}"),
    ("graph MB", lambda row: f"{row['graph_bytes'] / 1e6:.1f}"),
)


class Int8Settings(Settings):
    """What is compared."""

    bundle: Path | None = Field(
        None, description="bundle with PyTorch weights; default: the first teacher of the scenario quality"
    )
    texts: int = Field(1000, ge=1, description="number of training texts to compare on, besides all validation texts")


def run(settings: Int8Settings, context: Context) -> Outcome:
    """Compare on the movie sentences."""
    bundle = Bundle.open(settings.bundle or context.trained("teacher"))
    movies = load_splits(DataSettings(train=("builtin:movies",), test="builtin:movies"), labels=bundle.labels)
    calibration = movies.validation.single_texts()
    chosen = [*movies.train.single_texts()[: settings.texts], *calibration[: None if not context.quick else settings.texts]]
    return Outcome(run_int8_ways(bundle, texts=chosen, calibration=calibration, reporter=context.reporter))


def _scales(graph: onnx.ModelProto, ranges: Mapping[str, ChannelRange], way: Way) -> dict[str, InputScales]:
    layers = linear_layers(graph)
    weights = {name: [each.weights for each in layers if each.input == name] for name in ranges}
    if way.migration is None:  # nothing sets a channel apart from the others if all weights are alike and alpha is 0
        weights = {name: [np.ones_like(each[0])] for name, each in weights.items()}
    return {name: input_scales(values, weights[name], migration=way.migration or 0.0) for name, values in ranges.items()}


SCENARIO = Scenario(
    name="int8",
    summary="Compare the answers of int8 graphs with those of fp32, and of a text alone with those in a batch; "
    "measures no times.",
    settings=Int8Settings,
    run=run,
    figures=int8_figures,
    table=int8_table,
    decided_by=("benchmarks/scenarios/int8.py", "export/runtime", *INT8),
    minutes=10,
    quick={"texts": 20},
    needs=(QUALITY,),
)
