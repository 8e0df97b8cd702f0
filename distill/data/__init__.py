"""Labelled texts: reading them from files, built-in sets or the hub, cleaning and splitting them."""

from distill.data.dataset import Dataset, fingerprint, fold, limited, texts_not_in
from distill.data.sources import Splits, load_splits, read_labelled, read_texts

__all__ = ["Dataset", "Splits", "fingerprint", "fold", "limited", "load_splits", "read_labelled", "read_texts", "texts_not_in"]
