"""The settings of transfer learning: how a teacher is made of another model, and how candidates are ranked.

Outside the torch room `distill/transfer`, so that the command makes its flags from them without loading torch.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from distill.settings import Device, MixedPrecision, Settings, TeacherSettings

Transfer = Literal["parameters", "features"]
Pooling = Literal["cls", "mean", "max", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

_TRANSFER = (
    "parameters fine-tunes the weights; features leaves the encoder as it is and trains a head on its pooled states, which are "
    "kept in the cache, in seconds"
)
_POOLING = (
    "features: one vector a text; cls is the first token's state, mean and max are over the tokens, last is the mean over "
    "the tokens of the last --last-layers states"
)
_FEATURE_LAYER = "features: layers that are run, from 1; without it the number that is best on the validation texts"
_SHOTS = (
    "few-shot: use so many labelled texts of each class, drawn by the run's --seed; a fifth of them, at least one a "
    "class, takes the place of the validation texts"
)
_SOURCE = (
    "labelled texts of the task that --init was trained on: their score before and after is reported, leaked texts are looked "
    "for (extra: transfer), and --replay-share learns from them"
)
_NEW_VOCABULARY = (
    "for a language that the model does not know: train a tokenizer of so many tokens on the training and --adapt texts, and "
    "draw their vectors anew"
)
_FREEZE_BODY = (
    "leave all layers as they are, also while adapting: the embeddings and the head learn, as a --new-vocabulary needs first"
)
_ANCHOR = (
    "L2-SP against forgetting: this times the squared distance of the encoder from where it began is added to the loss; "
    "try 0.01 to 1"
)


class OriginSettings(Settings):
    """Where a teacher's weights come from, beside the encoder."""

    init: str | None = Field(
        None,
        min_length=1,
        description="a bundle to go on from, in place of --model: its encoder, and its head if the labels fit",
    )
    source: str | None = Field(None, min_length=1, description=_SOURCE)
    control: bool = Field(
        False,
        description="also train from --model, without --init, in OUT-alone, and say whether --init helped or harmed",
    )
    adapt: tuple[str, ...] = Field(
        (), description="texts of the target domain, no labels needed, to adapt the encoder to first: FILE or builtin:NAME"
    )


class FeatureSettings(Settings):
    """Which vector stands for a text."""

    pooling: Pooling = Field("mean", description=_POOLING)
    last_layers: int = Field(4, ge=1, description="layers that --pooling last averages")


class CarrySettings(TeacherSettings, FeatureSettings):
    """How a teacher is made of a model that was trained on something else."""

    transfer: Transfer = Field("parameters", description=_TRANSFER)
    feature_layer: int | None = Field(None, ge=1, description=_FEATURE_LAYER)
    shots: int | None = Field(None, ge=2, description=_SHOTS)
    freeze_below: int = Field(0, ge=0, description="leave the embeddings and so many of the lowest layers as they are")
    new_vocabulary: int | None = Field(None, ge=100, description=_NEW_VOCABULARY)
    freeze_body: bool = Field(False, description=_FREEZE_BODY)
    gradual_unfreezing: bool = Field(
        False, description="train the head alone in the first epoch, and one layer more, from the top, in each further one"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="each layer learns at this share of the rate of the layer above it; the head at all of it",
    )
    reinit_layers: int = Field(0, ge=0, description="draw the weights of so many of the top layers anew before training")
    lora_rank: int = Field(0, ge=0, description="train so many directions beside each query and value product instead (LoRA)")
    lora_scale: int = Field(2, ge=1, description="what those directions count (alpha over rank)")
    anchor: float = Field(0.0, ge=0, description=_ANCHOR)
    replay_share: float = Field(
        0.0, ge=0, description="texts of --source that are learnt too, as a share of the training texts; same labels only"
    )
    adapt_epochs: int = Field(1, ge=1, description="passes of masked-language modelling over the --adapt texts")
    adapt_learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of that")
    adapt_mask_share: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are to be guessed in it")
    calibrate: bool = Field(
        False, description="divide the logits by the temperature that fits the validation texts best; no label changes"
    )

    @model_validator(mode="after")
    def _features_train_no_layer(self) -> Self:
        of_parameters = (
            *("new_vocabulary", "freeze_body", "freeze_below", "gradual_unfreezing"),
            *("reinit_layers", "lora_rank", "anchor", "replay_share"),
        )
        asked = [name for name in of_parameters if getattr(self, name)] + ["layer_decay"] * (self.layer_decay != 1)
        if self.transfer == "features" and asked:
            raise ValueError(f"with transfer features no layer is trained, so {' and '.join(asked)} cannot be honoured")
        return self

    @model_validator(mode="after")
    def _a_layer_is_left_as_it_is_once(self) -> Self:
        of_layers = ("freeze_below", "gradual_unfreezing")
        for name, against in (("lora_rank", of_layers), ("freeze_body", (*of_layers, "reinit_layers", "lora_rank"))):
            if getattr(self, name) and (asked := [other for other in against if getattr(self, other)]):
                raise ValueError(f"{name} leaves every layer as it is, so {' and '.join(asked)} cannot be honoured beside it")
        return self


class SelectSettings(FeatureSettings):
    """How candidates are ranked."""

    folds: int = Field(5, ge=2, description="parts of the cross-validation of the linear probe")
    max_length: int = Field(128, ge=4, description="tokens kept per text")
    max_texts: int = Field(2000, ge=16, description="texts that are looked at, drawn by --seed with each label in proportion")
    suspects: int = Field(0, ge=0, description="also list so many rows whose label is probably wrong (extra: transfer)")
    curve: bool = Field(False, description="also give the recommended candidate's macro-F1 against the number of labels")
    seed: int = Field(0, ge=0, description="seed of the draws and of the folds")
    device: Device = Field("auto", description="where to compute; auto takes cuda, then mps, then cpu")
    mixed_precision: MixedPrecision = Field("auto", description="numbers the encoders compute in")
