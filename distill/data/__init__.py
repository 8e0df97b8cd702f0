"""Labelled texts: reading them from files, built-in sets or the hub, cleaning and splitting them."""

from distill.data.dataset import Dataset, fingerprint, fold, limited, texts_not_in
from distill.data.sources import Splits, TextSources, load_splits, read_labelled, read_teacher_logits, read_texts

__all__ = [
    "Dataset",
    "Splits",
    "TextSources",
    "fingerprint",
    "fold",
    "limited",
    "load_splits",
    "read_labelled",
    "read_teacher_logits",
    "read_texts",
    "texts_not_in",
]
