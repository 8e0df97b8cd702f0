"""Settings of data, teacher and student: the one place of each default, range and help text.

Flags, their headings in `--help` and the keys of the `--config` file are derived from these models. The settings of
`export` and `serve` are in those packages and share the base class.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ModelWrapValidatorHandler, ValidationError, model_validator

from distill.errors import SettingsError

BUILTIN_MINILM = "builtin:minilm"
"""The packaged all-MiniLM-L6 encoder."""
BUILTIN_MPNET = "builtin:mpnet"
"""The packaged all-mpnet-base encoder, a teacher of BERT's size."""

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "int8"]
LongTexts = Literal["truncate", "windows"]
MixedPrecision = Literal["auto", "no", "bf16"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
LayerRule = Literal["spread", "lower", "upper"]
StudentKind = Literal["encoder", "static"]
Characters = Literal["all", "seen"]
LossName = Literal["logits", "decoupled", "hidden", "hidden-cosine", "attention", "attention-kl", "relations", "patient"]
TextSource = Literal["all", "labelled", "unlabeled"]
Heading = Literal[
    "Budget",
    "Data",
    "Teacher",
    "Student",
    "Losses",
    "Transfer set",
    "Augmentation",
    "Transfer learning",
    "Training",
    "Ranking",
    "Graphs",
    "Gates",
    "Running",
    "Measuring",
    "Limits",
    "Network",
    "Access",
    "Logging",
    "Output",
]
"""Headings of `--help`, in the order in which they are shown."""

FROM_TEXTS: dict[str, JsonValue] = {"chosen_from": "texts"}
"""Marks a field whose default is chosen from the texts, so that `--help` shows no value."""
ONE_A_FLAG: dict[str, JsonValue] = {"values": "one a flag"}
"""Marks a field of several values whose flag takes one and is repeated for more, so that arguments may follow it."""

LEARNING_RATES: dict[StudentKind, float] = {"encoder": 1e-4, "static": 1e-3}
"""Default of each kind of student. Most weights of a static one start random, and it is too shallow to diverge."""


class Settings(BaseModel):
    """Base of every stage's settings: immutable, rejects unknown keys, raises `SettingsError`.

    A subclass names the `--help` heading of the fields it declares: `class TextSettings(Settings, heading="Data")`.
    """

    heading: ClassVar[Heading]

    # Deferred: a run uses one or two of the models, a serving process none.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def __init_subclass__(cls, *, heading: Heading | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        if heading is not None:
            cls.heading = heading

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise SettingsError(_describe(exc)) from exc


class TextSettings(Settings, heading="Data"):
    """Which column of a file holds the texts, and what happens to rows that cannot be used."""

    text_column: str = Field("text", min_length=1, description="column with the text; else one of a usual name, like review")
    pair_column: str | None = Field(
        None, min_length=1, description="sentence pairs: column with the second text, such as a question's answer"
    )
    max_text_chars: int = Field(
        100_000, ge=1, description="longest text accepted, in characters; a row with a longer one is unusable"
    )
    skip_bad_rows: bool = Field(False, description="skip unusable rows and report how many, instead of stopping")


class SplitSettings(Settings, heading="Data"):
    """Where the texts come from."""

    train: tuple[str, ...] = Field((), description="training texts: FILE (CSV, TSV, JSONL, Parquet), builtin:NAME or hub:ID")
    validation: str | None = Field(
        None, description="labelled texts for early stopping, other choices and checks; default: a share of --train is held out"
    )
    test: str | None = Field(None, description="labelled texts to measure on; they influence no choice")
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of --train held out when --validation is not given")
    split_seed: int = Field(
        0, ge=0, description="seed of the split by --validation-share and of the sample by --limit; independent of --seed"
    )
    limit: int | None = Field(None, ge=2, description="maximum number of texts of each split; larger splits are sampled")


class DataSettings(TextSettings, SplitSettings):
    """Where the texts come from and which columns hold them."""

    label_column: str = Field(
        "label", min_length=1, description="column with the labels, names or numbers; else one of a usual name, like sentiment"
    )
    label_separator: str | None = Field(
        None, min_length=1, description="multi-label data: separator between the labels of a row (a|b)"
    )
    labels: tuple[str, ...] = Field((), description="label names in order; default: those in the data")
    teacher_logits_column: str | None = Field(
        None,
        min_length=1,
        description="use this column as the teacher: in each row a list with the teacher's logit of each label",
    )

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct names, got {list(self.labels)}")
        return self


_MIXED_PRECISION = (
    "bf16: matmuls in bfloat16, weights and optimizer in fp32; auto: bf16 where the hardware is fast at it "
    "(AMX, AMD since Zen 4, CUDA since Ampere)"
)


class TrainingSettings(Settings, heading="Training"):
    """What fine-tuning and distilling have in common: one loop, one optimizer (AdamW)."""

    epochs: int = Field(3, ge=1, description="maximum number of passes over the training texts")
    batch_size: int = Field(32, ge=1, description="texts per step")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    patience: int = Field(2, ge=1, description="stop after this many epochs without a better validation macro-F1")
    seed: int = Field(0, ge=0, description="seed of head initialization, dropout and the order of texts")
    device: Device = Field("auto", description="device to train on; auto: cuda, else mps, else cpu")
    mixed_precision: MixedPrecision = Field("auto", description=_MIXED_PRECISION)
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: weight the hard-label loss by inverse class frequency; soft targets are not weighted"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout while training; default: that of the model")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of steps with linear warmup; linear decay to 0 follows")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW, except for biases, norms and embeddings")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    checkpoint_every_s: float = Field(
        60, ge=0, description="seconds between checkpoints; the most work that an interrupted run can lose"
    )
    track: tuple[Tracker, ...] = Field(
        (), description="log the metrics of each step to these trackers; tensorboard writes to OUT-logs"
    )


class FineTuningSettings(TrainingSettings):
    """How a classifier is fine-tuned on labelled texts."""

    max_length: int = Field(128, ge=4, description="maximum tokens per text; longer texts are cut")


class StudentSettings(Settings, heading="Student"):
    """Which parts of the teacher a student is made of."""

    num_layers: int | None = Field(
        None, ge=1, description="encoder layers; default: 3 of the teacher's, or all of those of --student"
    )
    max_length: int | None = Field(
        None, ge=4, description="maximum tokens per text; longer texts are cut; default: that of the teacher"
    )
    kind: StudentKind = Field(
        "encoder",
        description="encoder: keeps layers of the teacher; static: token vectors and a small convolution instead of "
        "layers, the fastest, loads only in potstill",
    )
    student: str | None = Field(
        None,
        min_length=1,
        description="pretrained model to use as the student, with its own tokenizer: a folder, a bundle, a hub id, "
        "builtin:minilm or builtin:mpnet; default: layers of the teacher",
    )
    layer_rule: LayerRule = Field("spread", description="teacher layers to keep: evenly spread, the lowest or the highest")
    layers: tuple[int, ...] = Field(
        (), description="teacher layers to keep, by number from 0, in order; overrides --num-layers and --layer-rule"
    )
    hidden_size: int | None = Field(
        None, ge=1, description="hidden size, a multiple of the size of an attention head; default: that of the teacher"
    )
    intermediate_size: int | None = Field(
        None,
        ge=1,
        description="feed-forward neurons kept in each layer, those that matter most on the training texts; default: all",
    )
    vocabulary_size: int | None = Field(
        None,
        ge=1,
        description="tokens to keep, the most useful on the training texts; words without a token of their own are split "
        "into kept tokens; default: all",
    )
    vocabulary_from: TextSource = Field("all", description="texts on which --vocabulary-size chooses the tokens")
    vocabulary_characters: Characters = Field(
        "all",
        description="single-character tokens to keep: all, or only ASCII and those seen (other words become [UNK])",
    )
    embedding_size: int | None = Field(
        None,
        ge=1,
        description="factorize the token embeddings: columns of the table, followed by a linear layer to the hidden size; "
        "default: no factorization",
    )
    embedding_window: Literal[1, 3] = Field(
        1, description="3: the embedding of a token also depends on its two neighbours; recommended for one-layer students"
    )
    static_window: int = Field(3, ge=1, description="static students: tokens per convolution window, an odd number")
    static_features: int = Field(256, ge=1, description="static students: output channels of the convolution")
    static_head: int = Field(128, ge=1, description="static students: hidden units between pooled features and logits")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(set(self.layers)) != len(self.layers) or any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers must be distinct numbers from 0, got {list(self.layers)}")
        of_layers = ("embedding_size", "hidden_size", "intermediate_size", "layers", "num_layers")
        refused = [name for name in of_layers if getattr(self, name)] + ["embedding_window"] * (self.embedding_window > 1)
        if self.kind == "static" and refused:
            raise ValueError(f"a static student has no layers; remove {' and '.join(refused)}, or use kind encoder")
        if self.static_window % 2 == 0:
            raise ValueError(f"static_window must be odd, so that it has a middle token, got {self.static_window}")
        return self


Unsure = Literal["keep", "weigh", "leave_out"]
"""What a student does with the answers that its teacher is unsure of."""
UNSURE_WAYS: Final[tuple[Unsure, ...]] = get_args(Unsure)
UNSURE_HELP: Final = (
    "texts of which the teacher is unsure, by the gap between its two likeliest labels: keep them like the others, weigh each "
    "text by its gap, or leave_out the fifth of each label with the smallest gaps"
)


class TransferSetSettings(Settings, heading="Transfer set"):
    """The weight of each source of texts in the loss, and which unlabelled texts are used."""

    labelled_weight: float = Field(1.0, gt=0, description="loss weight of labelled texts")
    unlabeled_weight: float = Field(1.0, gt=0, description="loss weight of unlabelled texts")
    augmented_weight: float = Field(1.0, gt=0, description="loss weight of augmented texts")
    unlabeled_confidence: float = Field(
        0.0, ge=0, lt=1, description="drop unlabelled texts whose top label has a lower teacher probability"
    )
    unlabeled_temperature: float = Field(
        1.0, gt=0, description="temperature of the probability that --unlabeled-confidence compares"
    )
    unlabeled_agreed: bool = Field(False, description="drop unlabelled texts on whose label several teachers disagree")
    unsure: Unsure = Field("keep", description=f"{UNSURE_HELP}; texts with a hard label in the loss are always kept")
    max_texts: int | None = Field(
        None,
        ge=2,
        description="learn from at most this many texts, not counting copies: a sample, labelled texts first; default: all",
    )


class AugmentSettings(Settings, heading="Augmentation"):
    """How many noisy copies of its texts a student also learns from, and how they are made."""

    augment: int = Field(0, ge=0, description="noisy copies of each text to add; the teacher labels them")
    augment_from: TextSource = Field("all", description="texts to copy")
    augment_mask: float = Field(0.1, ge=0, le=1, description="share of words to mask or drop, half each")
    augment_neighbours: float = Field(
        0.15, ge=0, le=1, description="share of words to replace by a nearest neighbour in the teacher's embeddings"
    )
    augment_span: float = Field(0.25, ge=0, le=1, description="share of copies that are a span of their text")
    augment_splice: float = Field(0.25, ge=0, le=1, description="share of copies that join halves of two texts")
    augment_seed: int = Field(
        0, ge=0, description="seed of the copies; --seed does not change them, so the teacher labels each copy once"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        for first, second in (("augment_mask", "augment_neighbours"), ("augment_span", "augment_splice")):
            total = getattr(self, first) + getattr(self, second)
            if total > 1:
                raise ValueError(f"{first} and {second} must add up to at most 1, got {total:g}")
        return self


class LossSettings(Settings, heading="Losses"):
    """The terms of the distillation loss."""

    soft_weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="weight of the soft-target loss on labelled texts; the rest is for the hard-label loss; 0 and no "
        "--losses: the student trains without a teacher",
    )
    temperature: float = Field(2.0, gt=0, description="temperature of both distributions in the soft-target loss")
    losses: tuple[str, ...] = Field(
        (),
        description="more loss terms, as NAME=WEIGHT: logits; decoupled (three classes or more); and these, which run the "
        "teacher in every step: hidden, hidden-cosine, attention, attention-kl, relations, patient",
    )
    nontarget_weight: float = Field(1.0, ge=0, description="with --losses decoupled: weight of the non-target classes")
    relation_heads: int | None = Field(
        None, ge=1, description="with --losses relations: number of heads; default: that of the teacher"
    )

    @property
    def loss_weights(self) -> dict[LossName, float]:
        """Return the weight of each of `losses`."""
        return dict(map(_named_weight, self.losses))

    @property
    def asks_teacher(self) -> bool:
        """Whether the loss needs the teacher's answers; if not, the teacher only supplies weights (the control)."""
        return self.soft_weight > 0 or bool(self.losses)

    @model_validator(mode="after")
    def _losses_are_distinct(self) -> Self:
        if len(self.loss_weights) != len(self.losses):
            raise ValueError(f"losses must be distinct terms, got {list(self.losses)}")
        return self


class DistillSettings(
    TrainingSettings, AugmentSettings, TransferSetSettings, LossSettings, StudentSettings, heading="Training"
):
    """How one student learns from one teacher."""

    learning_rate: float = Field(
        LEARNING_RATES["encoder"],
        gt=0,
        description=f"peak learning rate of AdamW; static students: {LEARNING_RATES['static']:g}",
    )
    dropout: float | None = Field(0.0, ge=0, lt=1, description="dropout of the student while training")
    quantization_aware_epochs: int = Field(
        0, ge=0, description="extra epochs at a tenth of the learning rate that simulate the rounding of the int8 graph"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _learning_rate_of_kind(cls, values: Any, validated: ModelWrapValidatorHandler[Self]) -> Self:
        """Take None as the default of the kind: the estimator passes every parameter, also those that nobody set."""
        if not isinstance(values, dict) or values.get("learning_rate") is not None:
            return validated(values)
        settings = validated({**values, "learning_rate": LEARNING_RATES.get(values.get("kind", "encoder"))})
        settings.model_fields_set.discard("learning_rate")  # nobody set it
        return settings


class TrialSettings(Settings, heading="Training"):
    """How many runs of the same recipe are compared."""

    control: bool = Field(
        False,
        description="also train the same student for as many steps without a teacher; runs go to OUT/runs, and "
        "OUT/report.json compares them on --test, else on the validation texts",
    )
    seeds: int = Field(
        1,
        ge=1,
        description="train with this many seeds, counted from --seed, and report mean and interval; OUT is the student "
        "that is best on the validation texts",
    )


def _named_weight(loss: str) -> tuple[LossName, float]:
    """Parse NAME=WEIGHT."""
    spelled, _, weight = loss.partition("=")
    name = next((known for known in get_args(LossName) if known == spelled), None)
    with suppress(ValueError):
        if name and 0 < float(weight) < float("inf"):
            return name, float(weight)
    raise ValueError(
        f"losses must be NAME=WEIGHT with a weight above 0 and a name of {', '.join(get_args(LossName))}; got {loss!r}"
    )


def _describe(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors(include_url=False):
        name = ".".join(map(str, error["loc"])) or "settings"
        if error["type"] == "extra_forbidden":
            problems.append(f"unknown setting {name!r}")
        elif error["type"] == "value_error":  # one of our validators, whose message is complete
            problems.append(str(error["ctx"]["error"]))
        else:
            problems.append(f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}")
    return "; ".join(problems)
