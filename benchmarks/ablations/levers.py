"""What the scenario `ablations` compares: ways to train that differ in one thing, and the levers, each with its control.

Values only. Each lever is tried where it should help most: what compares layers on a narrow student without further texts,
what separates classes on three labels, what keeps an encoder as it was in a chain with few labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from distill.recipes import Effort
from export.settings import EmbeddingPrecision

SEEDS: Final = (0, 1, 2)
MOVIES, THREE_WAY, AMAZON = "movies", "tweets-three-way", "amazon"
EFFORT: Final[Effort] = "standard"
"""Every student has the shape and the settings of the recipe `narrow`, made directly of the teacher, with this effort."""
HALF: Final = 0.5
"""Share of the training of a standard effort: the whole would take twice as long, and the copies alone need it."""
SHOTS: Final = 100
"""Labels a class of the chain: the teacher of movies goes on with 200 labels of amazon."""
FEW_EPOCHS: Final = 8
"""Of the chain: gradual unfreezing of 6 layers needs as many."""


@dataclass(frozen=True)
class Arm:
    """One way of training. Arms of the same task and kind differ only in what stands here.

    Attributes:
        task: The built-in set that is learnt and measured.
        changes: Settings that differ.
        teachers: Teachers whose mean logits are learnt.
        unlabeled: Further texts without labels.
        share: Of the training of a standard effort.
        tables: Precision of the embedding tables of the int8 graph that answers; None: the PyTorch model answers.
        is_chain: Whether it is the teacher of movies that goes on with a few labels of the task, instead of a student.
    """

    task: str = MOVIES
    changes: Mapping[str, Any] = field(default_factory=dict)
    teachers: int = 1
    unlabeled: int = 0
    share: float = HALF
    tables: EmbeddingPrecision | None = None
    is_chain: bool = False


@dataclass(frozen=True)
class Lever:
    """Two arms that differ in one thing.

    Attributes:
        shown_as: What is pulled, in tables.
        arm: With it.
        control: Without it.
        where: The situation, in tables.
    """

    shown_as: str
    arm: str
    control: str
    where: str = "2 layers of 192"


_WHOLE: Final[Mapping[str, Any]] = {"vocabulary_size": None, "vocabulary_characters": "all"}
"""The teacher's vocabulary: what compares token by token needs it, and so does its control."""


def _term(loss: str, task: str = MOVIES, **changes: Any) -> Arm:
    """Return a student that learns from a further loss, as heavy as the soft targets."""
    return Arm(task, {"losses": (f"{loss}=1",), **changes})


def _copies(count: int) -> Arm:
    """Return a student with this many noisy copies of each text; all see as many texts, so few copies are seen more often."""
    return Arm(changes={"augment": count}, share=1.0)


def _chain(**changes: Any) -> Arm:
    return Arm(AMAZON, changes, is_chain=True)


ARMS: Final[Mapping[str, Arm]] = {
    "narrow": Arm(),
    "narrow_whole": Arm(changes=_WHOLE),
    **{loss: _term(loss, **_WHOLE) for loss in ("relations", "hidden", "hidden-cosine", "attention", "attention-kl")},
    "logits": _term("logits"),
    "three_labels": Arm(THREE_WAY),
    "three_labels_whole": Arm(THREE_WAY, _WHOLE),
    "patient": _term("patient", THREE_WAY, **_WHOLE),
    "decoupled": _term("decoupled", THREE_WAY),
    "int4": Arm(tables="int4"),
    "rounding": Arm(changes={"quantization_aware_epochs": 1}, tables="int4"),
    # As many bytes: 10,000 columns of 192, or 30,522 of 62 and a layer of 62 x 192.
    "factorised": Arm(changes={**_WHOLE, "embedding_size": 62}),
    **{f"copies_{count}": _copies(count) for count in (0, 1, 4, 20)},
    **{f"unlabelled_{count}": Arm(unlabeled=count) for count in (3_000, 12_000)},
    **{f"temperature_{value}": Arm(changes={"temperature": float(value)}) for value in (1, 4)},
    "three_teachers": Arm(teachers=3),
    "three_teachers_12000": Arm(teachers=3, unlabeled=12_000),
    "agreed": Arm(changes={"unlabeled_agreed": True}, teachers=3, unlabeled=12_000),
    "chain": _chain(),
    "lora": _chain(lora_rank=8),
    "lora_faster": _chain(lora_rank=8, learning_rate=1e-3),  # so few weights learn little at the rate of all
    "anchor": _chain(anchor=0.1),
    "anchor_10": _chain(anchor=10.0),
    "replay": _chain(replay_share=1.0),
    "layer_decay": _chain(layer_decay=0.8),
    "gradual_unfreezing": _chain(gradual_unfreezing=True),
    "reinit_layers": _chain(reinit_layers=1),
}

_ALL_WORDS: Final = "2 layers of 192, whole vocabulary"
_THREE: Final = "2 layers of 192, three labels"
_TAUGHT_BY_THREE: Final = "2 layers of 192, three teachers, 12,000 further texts"
_TABLES: Final = "2 layers of 192, tables of 4 bits"
_CHAIN: Final = "the teacher of movies, 200 labels of amazon"

LEVERS: Final[Mapping[str, Lever]] = {
    "relations": Lever("relations of the last layer", "relations", "narrow_whole", _ALL_WORDS),
    "hidden": Lever("hidden states, squared distance", "hidden", "narrow_whole", _ALL_WORDS),
    "hidden_cosine": Lever("hidden states, angle", "hidden-cosine", "narrow_whole", _ALL_WORDS),
    "attention": Lever("attention, squared distance", "attention", "narrow_whole", _ALL_WORDS),
    "attention_kl": Lever("attention, divergence", "attention-kl", "narrow_whole", _ALL_WORDS),
    "logits": Lever("squared distance of logits", "logits", "narrow"),
    "patient": Lever("patient: the first token of each layer", "patient", "three_labels_whole", f"{_THREE}, whole vocabulary"),
    "decoupled": Lever("decoupled soft targets", "decoupled", "three_labels", _THREE),
    "rounding": Lever("rounding in training, one epoch more", "rounding", "int4", _TABLES),
    "factorised": Lever("factorised embeddings instead of a trimmed vocabulary", "factorised", "narrow"),
    "whole_vocabulary": Lever("the whole vocabulary instead of 10,000 tokens", "narrow_whole", "narrow"),
    "copies_1": Lever("1 noisy copy instead of none", "copies_1", "copies_0"),
    "copies_4": Lever("4 noisy copies instead of none", "copies_4", "copies_0"),
    "copies_20": Lever("20 noisy copies instead of 4", "copies_20", "copies_4"),
    "unlabelled_3k": Lever("3,000 further texts", "unlabelled_3000", "narrow"),
    "unlabelled_12k": Lever("12,000 further texts", "unlabelled_12000", "narrow"),
    "temperature_1": Lever("temperature 1 instead of 2", "temperature_1", "narrow"),
    "temperature_4": Lever("temperature 4 instead of 2", "temperature_4", "narrow"),
    "three_teachers": Lever("three teachers instead of one", "three_teachers", "narrow"),
    "unlabelled_agreed": Lever(
        "only further texts on which the teachers agree", "agreed", "three_teachers_12000", _TAUGHT_BY_THREE
    ),
    "lora": Lever("LoRA of rank 8", "lora", "chain", _CHAIN),
    "lora_faster": Lever("LoRA of rank 8, ten times the rate", "lora_faster", "chain", _CHAIN),
    "anchor": Lever("anchor (L2-SP) of 0.1", "anchor", "chain", _CHAIN),
    "anchor_10": Lever("anchor (L2-SP) of 10", "anchor_10", "chain", _CHAIN),
    "replay": Lever("replay of as many texts", "replay", "chain", _CHAIN),
    "layer_decay": Lever("layer decay of 0.8", "layer_decay", "chain", _CHAIN),
    "gradual_unfreezing": Lever("gradual unfreezing", "gradual_unfreezing", "chain", _CHAIN),
    "reinit_layers": Lever("the last layer drawn anew", "reinit_layers", "chain", _CHAIN),
}
"""By the names of their figures, `gain_NAME`."""
