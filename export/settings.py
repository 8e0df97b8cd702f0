"""The settings of exporting and of measuring."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.settings import Precision, Settings

Exporter = Literal["auto", "fused", "portable", "optimum"]
Target = Literal["portable", "vnni"]
"""portable: any processor; vnni: those that add products of bytes at 32 bits."""

ActivationScales = Literal["fixed", "dynamic"]
EmbeddingPrecision = Literal["fp32", "int8", "int4"]


class ExportSettings(Settings):
    """Which graphs to write, and how much they may lose."""

    exporter: Exporter = Field(
        "auto",
        description="fused: BERT's family, from the weights, fastest; portable: any model, by torch's exporter; "
        "optimum: any model, by Hugging Face's exporter (extra `optimum`); auto: fused where it can",
    )
    precisions: tuple[Precision, ...] = Field(
        ("fp32", "int8"), min_length=1, description="graphs to write; int8 is made from fp32"
    )
    target: Target = Field(
        "portable", description="portable: 7-bit weights, right on any processor; vnni: 8 bits, refused where they can saturate"
    )
    activations: ActivationScales = Field(
        "fixed", description="fixed: a text gets one answer alone and in any batch; dynamic: scales of each batch"
    )
    embeddings: EmbeddingPrecision | Literal["auto"] = Field(
        "auto", description="numeric form of the tables in the int8 graph; auto: int8, or int4 where --max-size-mb asks for it"
    )
    max_size_mb: float | None = Field(
        None, gt=0, description="what must be shipped to answer in int8 may take this many megabytes (10^6 bytes)"
    )
    recalibrate: bool = Field(False, description="find the activation scales anew, not those in the bundle's quantization.json")
    parity_tolerance: float = Field(1e-4, gt=0, description="largest difference between a PyTorch and an fp32 logit")
    budget_f1: float = Field(0.005, ge=0, description="macro-F1 that int8 may lose against fp32; two texts are always allowed")
    budget_recall: float = Field(0.03, ge=0, description="recall that int8 may lose on any one label")
    budget_ece: float = Field(0.03, ge=0, description="calibration error that int8 may gain")
    batch_tolerance: float = Field(
        1e-4, gt=0, description="how far a probability of fixed-scale int8 may move between a text alone and in a batch"
    )
    min_agreement: float = Field(0.97, ge=0, le=1, description="share of texts to which int8 and fp32 must give one label")


class BenchSettings(Settings):
    """How latency and throughput are measured."""

    rounds: int = Field(7, ge=1, description="rounds; in each, every classifier takes its turn")
    texts_per_round: int = Field(100, ge=1, description="single texts each classifier answers in a round")
    warmup_s: float = Field(0.5, ge=0, description="seconds of unmeasured work before each turn of a first round")
    threads: int = Field(1, ge=1, description="threads of each classifier in the latency part")
    batch_size: int = Field(32, ge=1, description="texts per call in the throughput part")
    throughput_texts: int = Field(512, ge=1, description="texts of each classifier's turn in the throughput part")
    throughput_rounds: int = Field(3, ge=1, description="rounds of the throughput part")


class DemoSettings(Settings):
    """What the demo runs."""

    profile: Literal["full", "quick"] = Field("full", description="quick trains on a sample: minutes, and lower figures")
    seed: int = Field(0, ge=0, description="seed of heads, dropout and order; the split never depends on it")
