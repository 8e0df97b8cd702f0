"""What others publish on SST-2, with the source of each row. Values only; nothing here was measured by potstill."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Published(NamedTuple):
    """A row of somebody else's table.

    Attributes:
        name: The model.
        accuracy: As published, in percent.
        split: "dev" or GLUE's hidden "test".
        teacher_accuracy: Of the teacher, or of the model that was pruned, on the same split; None if the source has none.
        millions: Parameters; None if the source does not say, or if most are zero or of one bit.
        megabytes: Size; None if the source does not say.
        faster: Speed-up over BERT-base as published, by whatever hardware; None if the source does not say.
        source: Where the row is.
        is_quoted: Whether its figures were read where others quote them, because the source could not be read.
    """

    name: str
    accuracy: float
    split: Literal["dev", "test"]
    teacher_accuracy: float | None
    millions: float | None
    megabytes: float | None
    faster: float | None
    source: str
    is_quoted: bool = False


_DISTILBERT: Final = (
    "https://github.com/huggingface/transformers/tree/4aa4342b720ef79340412180d41ad22b01d4942f/examples/"
    "research_projects/distillation (README)"
)
_XTREME: Final = "https://huggingface.co/microsoft/xtremedistil-l12-h384-uncased"
_TINYBERT: Final = "https://arxiv.org/abs/1909.10351 (table 1)"
_BILSTM: Final = "https://arxiv.org/abs/1903.12136"
_BIT: Final = "https://github.com/facebookresearch/bit (README)"

PUBLISHED: Final = (
    Published("DistilBERT", 91.3, "dev", 92.7, 66, None, 1.6, _DISTILBERT),
    Published("TinyBERT-6", 93.1, "test", 93.4, 67, None, 2.0, _TINYBERT, is_quoted=True),
    Published("TinyBERT-4", 92.6, "test", 93.4, 14.5, None, 9.4, _TINYBERT, is_quoted=True),
    Published("MiniLM L6-384", 91.5, "dev", 93.2, 22, None, 5.3, "https://github.com/microsoft/unilm/tree/master/minilm"),
    Published("XtremeDistil l6-h384", 92.3, "dev", 93.2, 22, None, 5.3, _XTREME),
    Published("XtremeDistil l6-h256", 91.2, "dev", 93.2, 13, None, 8.7, _XTREME),
    Published("CoFi, 95 % pruned", 90.4, "dev", None, None, None, 12.2, "https://github.com/princeton-nlp/CoFiPruning"),
    Published("BiT, 1 bit", 89.9, "dev", 93.2, None, 13.4, None, _BIT),
    Published("BiT, 1 bit, augmented texts", 92.3, "dev", 93.2, None, 13.4, None, _BIT),
    Published(
        "BERT-base, 80 % sparse int8",
        91.28,
        "dev",
        None,
        None,
        182,
        None,
        "https://huggingface.co/OpenVINO/bert-base-uncased-sst2-int8-unstructured80",
    ),
    Published(
        "BERT-mini, 90 % sparse 4x1",
        87.2,
        "dev",
        None,
        None,
        None,
        None,
        "https://huggingface.co/Intel/bert-mini-sst2-distilled-sparse-90-1X4-block",
    ),
    Published("BiLSTM taught by BERT", 90.7, "test", None, None, None, None, _BILSTM, is_quoted=True),
)
"""Read in November 2026 at the source, but for those that are quoted; rows found nowhere are left out."""
