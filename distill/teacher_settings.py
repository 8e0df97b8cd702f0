"""Settings of teachers: how they are fine-tuned, what they start from, and how candidate encoders are ranked.

Outside the torch room `distill/transfer`, so that the flags are made without loading torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from distill.recipes import Effort
from distill.settings import FROM_TEXTS, Device, FineTuningSettings, MixedPrecision, Settings

TeacherMethod = Literal["parameters", "features"]
Pooling = Literal["cls", "mean", "max", "last"]


class OriginSettings(Settings, heading="Transfer learning"):
    """Where a teacher's weights come from, other than a pretrained encoder."""

    init: str | None = Field(
        None,
        min_length=1,
        description="bundle to continue from instead of --model: its encoder, and its head if the labels match",
    )
    source: str | None = Field(
        None,
        min_length=1,
        description="labelled texts of the task that --init was trained on; used to report the score on them before and "
        "after, to find test texts among them (extra: transfer), and for --replay-share",
    )
    control: bool = Field(
        False,
        description="also train from --model without --init, in OUT-alone, and report whether --init helped",
    )
    adapt: tuple[str, ...] = Field(
        (),
        description="unlabelled texts of your domain, FILE or builtin:NAME; the encoder is first pretrained on them by "
        "masked language modelling",
    )


class FeatureSettings(Settings, heading="Transfer learning"):
    """How the hidden states of a text become one vector."""

    pooling: Pooling = Field(
        "mean",
        description="how the hidden states of a text become one vector: cls: that of the first token; mean, max: over the "
        "tokens; last: mean over the tokens and the last --last-layers layers",
    )
    last_layers: int = Field(4, ge=1, description="number of layers that --pooling last averages")


class TeacherSettings(FineTuningSettings, FeatureSettings, heading="Transfer learning"):
    """How a teacher is fine-tuned: which weights, from what, and how."""

    effort: Effort = Field(
        "standard", description="how much training if --epochs is not given; quick makes about half the steps of standard"
    )
    epochs: int = Field(
        3,
        ge=1,
        description="maximum number of passes over the training texts; default: from 20 for few texts to 1 for many, by "
        "--effort",
        json_schema_extra=FROM_TEXTS,
    )
    batch_size: int = Field(
        32, ge=1, description="texts per step; default: 16 for fewer than 4,000 texts, else 32", json_schema_extra=FROM_TEXTS
    )
    patience: int = Field(
        2,
        ge=1,
        description="stop after this many epochs without a better validation macro-F1; default: a quarter of the epochs, "
        "at least 2",
        json_schema_extra=FROM_TEXTS,
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: weight the loss by inverse class frequency; default: balanced if a label is rare",
        json_schema_extra=FROM_TEXTS,
    )
    max_length: int = Field(
        128,
        ge=4,
        description="maximum tokens per text; longer texts are cut; default: enough for 99 of 100 texts, at least 128, at "
        "most what the model reads",
        json_schema_extra=FROM_TEXTS,
    )
    transfer: TeacherMethod = Field(
        "parameters",
        description="parameters: fine-tune the weights; features: freeze the encoder and train a head on its pooled "
        "hidden states, which are cached; takes seconds; only for BERT (such as builtin:minilm), RoBERTa, XLM-RoBERTa and "
        "CamemBERT; default: parameters, or for these families with fewer than 1,500 texts the better of the two on the "
        "validation texts",
        json_schema_extra=FROM_TEXTS,
    )
    feature_layer: int | None = Field(
        None,
        ge=1,
        description="features: number of encoder layers to run, from 1; default: the best on the validation texts",
    )
    shots: int | None = Field(
        None,
        ge=2,
        description="few-shot: number of labelled texts per class, sampled by --seed; a fifth of them, at least one per "
        "class, are the validation texts",
    )
    freeze_below: int = Field(0, ge=0, description="freeze the embeddings and this many of the lowest layers")
    new_vocabulary: int | None = Field(
        None,
        ge=100,
        description="for a language the model does not know: train a tokenizer with this many tokens on the training and "
        "--adapt texts, and initialize their embeddings randomly",
    )
    freeze_body: bool = Field(
        False,
        description="freeze all layers, also while adapting, and train only embeddings and head; the usual first step "
        "with --new-vocabulary",
    )
    gradual_unfreezing: bool = Field(
        False,
        description="train only the head in the first epoch, and unfreeze one layer per epoch from the top; needs as many "
        "--epochs as layers, plus 2",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of each layer, relative to the layer above it; the head has the full rate",
    )
    reinit_layers: int = Field(0, ge=0, description="reinitialize this many of the top layers before training")
    lora_rank: int = Field(
        0,
        ge=0,
        description="LoRA: train adapters of this rank on the query and value layers instead, at a higher rate, such as 1e-3 "
        "(extra: lora)",
    )
    lora_scale: int = Field(2, ge=1, description="LoRA: scale of the adapters (alpha divided by rank)")
    anchor: float = Field(
        0.0,
        ge=0,
        description="L2-SP against forgetting: weight of the squared distance of the encoder from its initial weights, "
        "added to the loss; try 1 to 10",
    )
    replay_share: float = Field(
        0.0, ge=0, description="also train on texts of --source, as a share of the training texts; needs the same labels"
    )
    adapt_epochs: int = Field(1, ge=1, description="epochs of masked language modelling over the --adapt texts")
    adapt_learning_rate: float = Field(1e-4, gt=0, description="peak learning rate while adapting")
    adapt_mask_share: float = Field(0.15, gt=0, lt=1, description="share of tokens masked while adapting")
    calibrate: bool = Field(
        False,
        description="temperature scaling: divide the logits by a temperature fitted on validation texts; no label changes",
    )

    @model_validator(mode="after")
    def _no_setting_changes_a_frozen_layer(self) -> Self:
        partly_frozen = ("freeze_below", "gradual_unfreezing")
        trained = ("new_vocabulary", "freeze_body", *partly_frozen, "reinit_layers", "lora_rank", "anchor", "replay_share")
        excluded: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
            ("transfer features", self.transfer == "features", (*trained, "layer_decay")),
            ("lora_rank", self.lora_rank > 0, partly_frozen),
            ("freeze_body", self.freeze_body, (*partly_frozen, "reinit_layers", "lora_rank")),
        )
        for name, chosen, others in excluded:
            changed = [other for other in others if getattr(self, other) != type(self).model_fields[other].default]
            if chosen and changed:
                raise ValueError(f"{name} freezes every encoder layer; remove {' and '.join(changed)}, or {name}")
        return self


class SelectSettings(FeatureSettings, heading="Ranking"):
    """How candidates are ranked."""

    folds: int = Field(5, ge=2, description="folds of the cross-validation of the linear probe")
    max_length: int = Field(128, ge=4, description="maximum tokens per text; longer texts are cut")
    max_texts: int = Field(2000, ge=16, description="number of training texts to use: a stratified sample by --seed")
    suspects: int = Field(0, ge=0, description="also list this many rows whose label is probably wrong (extra: transfer)")
    curve: bool = Field(False, description="also report the macro-F1 of the recommended candidate by number of labelled texts")
    seed: int = Field(0, ge=0, description="seed of the sample and of the folds")
    device: Device = Field("auto", description="device to run on; auto: cuda, else mps, else cpu")
    mixed_precision: MixedPrecision = Field(
        "auto", description="dtype of the forward passes; auto: bf16 where the hardware is fast at it"
    )
