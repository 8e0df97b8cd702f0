"""The settings of data, teacher and student: each default, range and help text is written here, once.

The command's flags, the `--config` file and the reference docs are made from these models by the libraries
that read them. Settings of later stages stand in those stages' packages and share the base class.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.errors import SettingsError

BUILTIN_MINILM = "builtin:minilm"
"""The packaged all-MiniLM-L6 encoder, as the `model` of a teacher."""

STATIC_LEARNING_RATE = 1e-3
"""A static student's own default: most of it is drawn at random, and nothing in it is deep enough to run away."""

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "int8"]
LongTexts = Literal["truncate", "windows"]
MixedPrecision = Literal["auto", "no", "bf16"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
LayerRule = Literal["spread", "lower", "upper"]
StudentKind = Literal["encoder", "static"]
Characters = Literal["all", "seen"]
ClassWeights = Literal["none", "balanced"]
LossName = Literal["logits", "decoupled", "hidden", "hidden-cosine", "attention", "attention-kl", "relations", "patient"]
TextSource = Literal["all", "labelled", "unlabeled"]


class Settings(BaseModel):
    """Base of every stage's settings: frozen, unknown keys refused, errors in potstill's own words."""

    # Deferred: most runs use one or two of the models, and a serving process none.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise SettingsError(_describe(exc)) from exc


class TextSettings(Settings):
    """Which column of a file holds the texts, and what to do with rows that cannot be used."""

    text_column: str = Field("text", min_length=1, description="column that holds the text")
    max_text_chars: int = Field(100_000, ge=1, description="longest text accepted, in characters")
    skip_bad_rows: bool = Field(False, description="leave out rows that cannot be used, and say how many, instead of stopping")


class DataSettings(TextSettings):
    """Where the texts come from and which columns hold them."""

    train: tuple[str, ...] = Field((), description="training texts: FILE (CSV, TSV, JSONL, Parquet), builtin:NAME or hub:ID")
    validation: str | None = Field(None, description="texts that choose settings; without it a share of --train is cut off")
    test: str | None = Field(None, description="texts that only measure, never choose")
    label_column: str = Field("label", min_length=1, description="column that holds the label, by name or number")
    label_separator: str | None = Field(
        None, min_length=1, description="a text may have several labels, with this between them in the label column (a|b)"
    )
    teacher_logits_column: str | None = Field(
        None, min_length=1, description="column with a teacher's logits, a list of one number a label, which then teach too"
    )
    labels: tuple[str, ...] = Field((), description="label names in order; without it they are read from the data")
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of --train cut off when --validation is not given")
    split_seed: int = Field(0, ge=0, description="seed of that cut; the run's --seed never moves a text between splits")
    limit: int | None = Field(None, ge=2, description="use only this many texts of each split, drawn by the split seed")

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct names, got {list(self.labels)}")
        return self


_MIXED_PRECISION = (
    "bf16 computes products in bfloat16, weights and their updates stay fp32; auto does so where the processor is "
    "quick at it (AMX, or CUDA since Ampere)"
)


_CLASS_WEIGHTS = (
    "balanced lets every class count the same in the loss on the labels, however rare; soft targets stay as they are"
)


class TrainingSettings(Settings):
    """What fine-tuning and distilling have in common: one loop, one optimiser (AdamW)."""

    epochs: int = Field(3, ge=1, description="passes over the training texts, at most")
    batch_size: int = Field(32, ge=1, description="texts per step")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls to 0")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay; biases, norms and embeddings have none")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    patience: int = Field(2, ge=1, description="stop after this many epochs without a better validation macro-F1")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout while training; without it what the model brings")
    class_weights: ClassWeights = Field("none", description=_CLASS_WEIGHTS)
    seed: int = Field(0, ge=0, description="seed of head, dropout and order")
    track: tuple[Tracker, ...] = Field((), description="where the figures of each step go; TensorBoard's stand in OUT-logs")
    checkpoint_every_s: float = Field(60, ge=0, description="seconds between checkpoints; an interrupted run loses no more")
    device: Device = Field("auto", description="where to train; auto takes cuda, then mps, then cpu")
    mixed_precision: MixedPrecision = Field("no", description=_MIXED_PRECISION)


class TeacherSettings(TrainingSettings):
    """How a teacher is fine-tuned."""

    max_length: int = Field(128, ge=4, description="tokens kept per text")


_VOCABULARY_SIZE = (
    "tokens kept, chosen on the texts the student learns from; other words are split into what is kept; without it all"
)

_KIND = (
    "encoder keeps layers of the teacher; static has a table of token vectors instead of layers, for tens of microseconds a "
    "text, and loads with potstill only"
)


class StudentSettings(Settings):
    """What of the teacher a student is made of."""

    num_layers: int | None = Field(
        None, ge=1, description="encoder layers of the student; without it 3 of the teacher's, or all of --student's"
    )
    layer_rule: LayerRule = Field("spread", description="which teacher layers: evenly spread, the lowest or the highest")
    layers: tuple[int, ...] = Field((), description="teacher layers by number (from 0), in order; overrides the two above")
    hidden_size: int | None = Field(
        None, ge=1, description="channels of the encoder, a multiple of a head's size; without it the teacher's"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="neurons kept of each layer's feed-forward, chosen on the same texts; without it all"
    )
    vocabulary_size: int | None = Field(None, ge=1, description=_VOCABULARY_SIZE)
    vocabulary_from: TextSource = Field("all", description="the texts that those tokens are chosen on")
    vocabulary_characters: Characters = Field(
        "all", description="which characters stay spelt; seen gives up those that the texts lack: their words are unknown"
    )
    embedding_size: int | None = Field(
        None, ge=1, description="columns of the token table, with a product to the hidden size; without it one table"
    )
    embedding_window: Literal[1, 3] = Field(
        1, description="3: a token's vector also depends on the tokens beside it, which a student of one layer needs"
    )
    kind: StudentKind = Field("encoder", description=_KIND)
    static_window: int = Field(3, ge=1, description="tokens that a static student looks at together, an odd number")
    static_features: int = Field(256, ge=1, description="numbers that a static student makes of a window")
    static_head: int = Field(128, ge=1, description="units between a static student's pooled features and its logits")

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> Self:
        if len(set(self.layers)) != len(self.layers) or any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers must be distinct numbers from 0, got {list(self.layers)}")
        return self

    @model_validator(mode="after")
    def _static_has_no_layers(self) -> Self:
        asked = {"num_layers", "layers", "hidden_size", "intermediate_size", "embedding_size"} & self.model_fields_set
        refused = [name for name in sorted(asked) if getattr(self, name)]
        refused += ["embedding_window"] if self.embedding_window > 1 else []
        if self.kind == "static" and refused:
            raise ValueError(f"a static student has no layers, so {' and '.join(refused)} cannot be honoured; leave it out")
        return self

    @model_validator(mode="after")
    def _window_has_a_middle(self) -> Self:
        if self.static_window % 2 == 0:
            raise ValueError(f"static_window must be odd, with as many tokens on both sides, got {self.static_window}")
        return self


class TransferSettings(Settings):
    """What a text of each source counts (its loss is multiplied by it), and which unlabelled texts are let in."""

    labelled_weight: float = Field(1.0, gt=0, description="what a labelled text counts in the loss")
    unlabeled_weight: float = Field(1.0, gt=0, description="what an unlabelled text counts in the loss")
    augmented_weight: float = Field(1.0, gt=0, description="what an augmented text counts in the loss")
    unlabeled_confidence: float = Field(
        0.0, ge=0, lt=1, description="leave out unlabelled texts whose label the teacher gives a smaller probability"
    )
    unlabeled_temperature: float = Field(1.0, gt=0, description="divides the logits before that probability is taken")
    unlabeled_agreed: bool = Field(False, description="leave out unlabelled texts that the teachers do not all label alike")


class AugmentSettings(Settings):
    """How many noisy copies of its texts a student also learns from, and how they are made."""

    augment: int = Field(0, ge=0, description="noisy copies of each text to learn from too, labelled by the teacher")
    augment_seed: int = Field(
        0, ge=0, description="seed of the copies; the run's --seed makes no others, so each is labelled once"
    )
    augment_from: TextSource = Field("all", description="which texts are copied")
    augment_mask: float = Field(0.1, ge=0, le=1, description="share of a copy's words that are masked or dropped, half each")
    augment_neighbours: float = Field(0.15, ge=0, le=1, description="share replaced by a near word of the teacher's embeddings")
    augment_span: float = Field(0.25, ge=0, le=1, description="share of the copies that are a piece of their text")
    augment_splice: float = Field(0.25, ge=0, le=1, description="share that are half of their text and half of another")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        for first, second in (("augment_mask", "augment_neighbours"), ("augment_span", "augment_splice")):
            total = getattr(self, first) + getattr(self, second)
            if total > 1:
                raise ValueError(f"{first} and {second} are shares of the same things and may add up to 1, got {total:g}")
        return self


_LOSSES = (
    "terms beside the two of soft_weight, as NAME=WEIGHT: logits, decoupled (three classes or more), and, with the teacher in "
    "every step, hidden, hidden-cosine, attention, attention-kl, relations, patient"
)


class LossSettings(Settings):
    """What a student is to have in common with its teacher."""

    temperature: float = Field(2.0, gt=0, description="softens both distributions")
    soft_weight: float = Field(
        0.9, ge=0, le=1, description="share of the soft term on labelled texts; 0, without --losses, is the control"
    )
    losses: tuple[str, ...] = Field((), description=_LOSSES)
    nontarget_weight: float = Field(1.0, ge=0, description="decoupled: what the classes beside the target count")
    relation_heads: int | None = Field(None, ge=1, description="relations: heads; without it as many as the teacher has")

    @property
    def loss_weights(self) -> dict[LossName, float]:
        """Return the weight of each of `losses`."""
        return dict(map(_named_weight, self.losses))

    @property
    def asks_teacher(self) -> bool:
        """Whether anything is learnt from the teacher; otherwise it only lends its weights: the control."""
        return self.soft_weight > 0 or bool(self.losses)

    @model_validator(mode="after")
    def _losses_are_distinct(self) -> Self:
        if len(self.loss_weights) != len(self.losses):
            raise ValueError(f"losses must name each term once, got {list(self.losses)}")
        return self


_STUDENT = (
    "a pretrained model to teach, with a tokenizer of its own: a folder, a bundle, a hub id or builtin:minilm; without it the "
    "student is made of the teacher"
)


class DistillSettings(TrainingSettings, LossSettings, StudentSettings, TransferSettings, AugmentSettings):
    """How one student learns from one teacher."""

    student: str | None = Field(None, min_length=1, description=_STUDENT)
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW; a static student's is 1e-3 unless given")
    dropout: float | None = Field(0.0, ge=0, lt=1, description="dropout of the student while it learns")
    mixed_precision: MixedPrecision = Field("auto", description=f"student's and teacher's pass: {_MIXED_PRECISION}")
    max_length: int | None = Field(None, ge=4, description="tokens the student keeps per text; without it the teacher's")
    quantization_aware_epochs: int = Field(
        0, ge=0, description="further epochs, at a tenth of the rate, with the rounding that the int8 graph will do"
    )

    @model_validator(mode="before")
    @classmethod
    def _static_learns_faster(cls, values: Any) -> Any:
        static = isinstance(values, dict) and values.get("kind") == "static"
        return {"learning_rate": STATIC_LEARNING_RATE, **values} if static else values


class TrialSettings(Settings):
    """How often the same student is trained, and what beside it."""

    control: bool = Field(
        False, description="train the same student, for as many steps, without the teacher's answers too, and compare"
    )
    seeds: int = Field(1, ge=1, description="train with so many seeds, from --seed on, and report mean and interval")


def _named_weight(loss: str) -> tuple[LossName, float]:
    """Read NAME=WEIGHT."""
    name, _, weight = loss.partition("=")
    for known in get_args(LossName):
        if name == known:
            try:
                value = float(weight)
            except ValueError:
                break
            if 0 < value < float("inf"):
                return known, value
    raise ValueError(
        f"losses must be NAME=WEIGHT with a weight above 0 and a name of {', '.join(get_args(LossName))}; got {loss!r}"
    )


def _describe(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors(include_url=False):
        name = ".".join(map(str, error["loc"])) or "settings"
        if error["type"] == "extra_forbidden":
            problems.append(f"unknown setting {name!r}")
        elif error["type"] == "value_error":  # a check of our own, which finishes its sentence itself
            problems.append(str(error["ctx"]["error"]))
        else:
            problems.append(f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}")
    return "; ".join(problems)
