"""Settings of exporting, the demo and measuring."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.asking.settings import PriceSettings
from distill.recipes import Effort, RecipeName, recipes_for
from distill.settings import UNSURE_HELP, Precision, Settings, Unsure

Exporter = Literal["auto", "fused", "portable", "optimum"]
Target = Literal["portable", "vnni"]
"""portable: any processor; vnni: processors that accumulate int8 products in 32 bits."""
Form = Literal["pytorch", "fp32", "int8"]
"""What runs a bundle: its PyTorch weights, or one of its graphs."""
Layout = Literal["optimum", "transformers.js", "triton", "web", "bundle"]
"""File layouts of other tools; web: a page that answers in the browser; bundle: one graph, tokenizer and manifest."""

ActivationScales = Literal["fixed", "dynamic"]
EmbeddingPrecision = Literal["fp32", "int8", "int4"]


class GateSettings(Settings, heading="Gates"):
    """How much a graph may lose."""

    budget_f1: float = Field(
        0.005, ge=0, description="macro-F1 that int8 may lose against fp32; two changed labels are always allowed"
    )
    budget_recall: float = Field(0.03, ge=0, description="recall that int8 may lose on any label")
    budget_ece: float = Field(0.03, ge=0, description="expected calibration error that int8 may add")
    min_agreement: float = Field(0.97, ge=0, le=1, description="share of texts on which int8 and fp32 must give the same label")
    batch_tolerance: float = Field(
        1e-4, gt=0, description="largest change of a probability between a text alone and in a batch, with fixed scales"
    )
    parity_tolerance: float = Field(1e-4, gt=0, description="largest difference between a PyTorch and an fp32 ONNX logit")


class ExportSettings(GateSettings, heading="Graphs"):
    """Which graphs to write, and how much they may lose."""

    precisions: tuple[Precision, ...] = Field(
        ("fp32", "int8"), min_length=1, description="graphs to write; int8 is made from fp32"
    )
    exporter: Exporter = Field(
        "auto",
        description="fused: BERT models, written from the weights, fastest; portable: any model, torch.onnx; "
        "optimum: any model, Hugging Face Optimum (extra: optimum); auto: fused if possible, else portable",
    )
    target: Target = Field(
        "portable", description="portable: 7-bit weights, exact on any CPU; vnni: 8-bit weights, refused on CPUs without VNNI"
    )
    activations: ActivationScales = Field(
        "fixed",
        description="fixed: calibrated scales, so an answer does not depend on its batch; dynamic: scales computed for "
        "each batch",
    )
    embeddings: EmbeddingPrecision | Literal["auto"] = Field(
        "auto", description="precision of the embedding tables in the int8 graph; auto: int8, or int4 if --max-size-mb needs it"
    )
    max_size_mb: float | None = Field(
        None, gt=0, description="limit on the files needed to serve int8, in megabytes (10^6 bytes); default: none"
    )
    recalibrate: bool = Field(False, description="calibrate all activation scales again instead of using quantization.json")


MIN_PROCESSES = 3
"""An interval over processes needs as many."""


class TurnSettings(Settings, heading="Measuring"):
    """How turns are taken."""

    processes: int = Field(
        4, ge=MIN_PROCESSES, description="fresh processes per row, one after the other; the rounds are divided among them"
    )
    settle_s: float = Field(8.0, gt=0, description="maximum warm-up, in seconds; it ends earlier once the times are steady")
    window_s: float = Field(
        0.25, gt=0, description="warm-up: seconds per window; times are steady when consecutive windows agree"
    )
    timeout_s: float = Field(
        300.0, gt=0, description="maximum seconds for loading, and for one turn; what takes longer has failed"
    )
    order: Literal["random", "alternating"] = Field("random", description="order of the turns within a round")
    seed: int = Field(0, ge=0, description="seed of the random order")


class BenchSettings(TurnSettings, heading="Measuring"):
    """How latency and throughput are measured."""

    processes: int = Field(
        3,
        ge=MIN_PROCESSES,
        description="fresh processes per classifier, one after the other; the rounds are divided among them",
    )
    settle_s: float = Field(3.0, gt=0, description="maximum warm-up, in seconds; it ends earlier once the times are steady")
    rounds: int = Field(12, ge=MIN_PROCESSES, description="rounds that measure latency; the classifiers take turns in each")
    texts_per_round: int = Field(60, ge=1, description="texts per classifier in each latency round, one at a time")
    threads: int = Field(1, ge=1, description="threads per classifier when measuring latency")
    throughput_texts: int = Field(512, ge=1, description="texts per classifier in each throughput round")
    throughput_rounds: int = Field(6, ge=MIN_PROCESSES, description="rounds that measure throughput")


Prefer = Literal["speed", "quality", "size"]
UnsureChoice = Unsure | Literal["choose"]
"""choose: the way that is best on validation texts."""


class FitSettings(PriceSettings, heading="Budget"):
    """What the student may cost, and how much work is put into finding it."""

    max_ms: float | None = Field(
        None, gt=0, description="limit on the time per text in ms: the median, on one thread of this machine; default: none"
    )
    max_mb: float | None = Field(
        None, gt=0, description="limit on the files to ship: graph, tokenizer and manifest, in MB (10^6 bytes); default: none"
    )
    min_kept: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the teacher's macro-F1 that a student must keep on the validation texts, whatever --metric is, "
        "such as 0.97; default: none",
    )
    metric: str = Field(
        "macro_f1", description="score that students are chosen by: macro_f1, micro_f1, accuracy or recall:LABEL"
    )
    prefer: Prefer = Field(
        "speed",
        description="which student to choose: speed: the fastest, size: the smallest of those whose validation scores "
        "cannot be told from the best; quality: the best score",
    )
    effort: Effort = Field("standard", description="how long students train, and on how many noisy copies of each text")
    recipes: tuple[RecipeName, ...] = Field(
        (),
        description=f"consider only these recipes; default: all, with effort quick {', '.join(recipes_for('quick'))}",
    )
    time_limit_min: float | None = Field(
        None,
        gt=0,
        description="limit on the planned time, in minutes: --effort is lowered until the plan fits; exit with 2 if it "
        "never does",
    )
    seed: int = Field(0, ge=0, description="seed of all training; the splits of the texts stay the same")
    price_hour: float = Field(
        0.0, ge=0, description="price of an hour of one thread of this machine, for the cost table of a run with answers:FOLDER"
    )
    unsure: UnsureChoice | None = Field(
        None,
        description=f"{UNSURE_HELP}; choose: the best of these on the validation texts, with the fastest student; default: "
        "choose with answers:FOLDER if some texts have no other label, else keep",
    )
    train_all: bool = Field(
        False,
        description="train every student within the budget to the end; default: of four or more, the weaker half stops "
        "after a quarter",
    )


class DemoSettings(Settings, heading="Running"):
    """What the demo runs."""

    profile: Literal["full", "quick"] = Field("full", description="quick: train on a sample, in minutes, with lower scores")
    effort: Effort | None = Field(
        None, description="how much training the students get; default: standard, or quick with --profile quick"
    )
    seed: int = Field(0, ge=0, description="seed of head initialization, dropout and the order of texts; splits stay the same")
