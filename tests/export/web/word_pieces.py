"""The tiny task's bundles with a tokenizer of BERT's kind."""

from __future__ import annotations

import json

from distill.bundle import TOKENIZER, Bundle


def with_word_pieces(bundle: Bundle) -> Bundle:
    """Give a bundle of the tiny task, whose tokenizer knows whole words, one of BERT's kind with the same ids."""
    content = json.loads(bundle.read(TOKENIZER))
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    pieces = {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    content["normalizer"] = {"type": "BertNormalizer", **normalizer}
    content["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    content["model"] = {"type": "WordPiece", **pieces, "vocab": content["model"]["vocab"]}
    with bundle.staging() as staging:
        (staging / TOKENIZER).write_text(json.dumps(content))
        return bundle.adding({TOKENIZER: staging / TOKENIZER})
