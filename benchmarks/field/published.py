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
    """

    name: str
    accuracy: float
    split: Literal["dev", "test"]
    teacher_accuracy: float | None
    millions: float | None
    megabytes: float | None
    faster: float | None
    source: str


_XTREME: Final = "https://huggingface.co/microsoft/xtremedistil-l12-h384-uncased"
_TINYBERT: Final = "https://arxiv.org/abs/1909.10351 (table 1)"
_BIT: Final = "https://github.com/facebookresearch/bit (README)"

PUBLISHED: Final = (
    Published("DistilBERT", 91.3, "dev", 92.7, 66, None, 1.6, "https://arxiv.org/abs/1910.01108 (tables 1 and 3)"),
    Published("TinyBERT-6", 93.1, "test", 93.4, 67, None, 2.0, _TINYBERT),
    Published("TinyBERT-4", 92.6, "test", 93.4, 14.5, None, 9.4, _TINYBERT),
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
    Published("BiLSTM taught by BERT", 90.7, "test", None, None, None, None, "https://arxiv.org/abs/1903.12136"),
)
"""Read in November 2026 at the source, except DistilBERT, BiLSTM and both TinyBERT rows, whose figures were read where others
quote the tables; rows found nowhere are left out."""
