"""The files of a page that answers with a student in the reader's browser, for any server of static files.

The graph and the tokenizer are those of the bundle. A browser rounds fp32 in other places than Python does, which can move an
int8 value by one step, so probabilities are promised within `TOLERANCE`, not to the last digit. The page checks itself on texts
with known answers, and refuses to answer in a browser that breaks the promise.
"""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any, Final

from distill.bundle import TOKENIZER, Bundle
from distill.errors import BundleError, SettingsError
from distill.labels import THRESHOLD, task_of
from distill.settings import Precision
from distill.tokenization import TextTokenizer
from export.runtime.sessions import OnnxClassifier
from export.web.characters import character_classes
from export.web.npm_runtime import runtime_files

logger = logging.getLogger(__name__)

TOLERANCE: Final[dict[Precision, float]] = {"fp32": 1e-3, "int8": 0.2}
"""Most that a probability may differ from Python's; in int8 a value that falls on the next step can move a steep answer far."""

_OWN_FILES: Final = ("index.html", "page.js", "classifier.js", "tokenizer.js")
_STEPS: Final = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}
_PROBES: Final = 8
_WORDS_PER_PROBE: Final = 12


def page_files(bundle: Bundle, precision: Precision | None) -> dict[str, bytes | str]:
    """Return the content of each file of the page by its name.

    Args:
        bundle: A bundle with a graph.
        precision: Which graph; None: int8 where it has fixed scales, else fp32.

    Raises:
        SettingsError: The page cannot answer as the bundle does, or npm cannot bring ONNX Runtime.
        BundleError: The bundle has no such graph.
    """
    _require_readable(bundle)
    chosen = _chosen_precision(bundle, precision)
    return {
        **{name: (Path(__file__).parent / name).read_bytes() for name in _OWN_FILES},
        "model.json": json.dumps(_about(bundle, chosen), ensure_ascii=False),
        "tokenizer.json": bundle.read(TOKENIZER),
        "model.onnx": bundle.read_graph(chosen),
        **runtime_files(),
    }


def _require_readable(bundle: Bundle) -> None:
    """Refuse a bundle whose texts the page cannot turn into the same ids."""
    if bundle.manifest.pairs:
        raise SettingsError(f"{bundle.path} reads pairs of texts, and the web layout has a field for one; serve it instead")
    tokenizer = json.loads(bundle.read(TOKENIZER))
    for step, wanted in _STEPS.items():
        found = (tokenizer[step] or {}).get("type")
        if found != wanted:
            raise SettingsError(
                f"the tokenizer of {bundle.path} has the {step} {found}, and the web layout reads {wanted} only; distil from a "
                "teacher with the tokenizer of BERT, or use the layout transformers.js"
            )
    if any(added["single_word"] for added in tokenizer["added_tokens"]):
        raise SettingsError(f"{bundle.path} has added tokens with single_word, which the web layout does not read")


def _chosen_precision(bundle: Bundle, wanted: Precision | None) -> Precision:
    has_dynamic_scales = bundle.manifest.settings.get("export", {}).get("activations") == "dynamic"
    if wanted == "int8" and has_dynamic_scales:
        raise SettingsError(f"int8 of {bundle.path} has dynamic scales, which the web layout does not take; use fp32")
    if wanted:
        return wanted
    best = bundle.best_precision()
    if best == "int8" and has_dynamic_scales:
        logger.warning(
            "int8 of %s has dynamic scales, which the web layout does not take: the page has the fp32 graph", bundle.path
        )
        return "fp32"
    return best


def _about(bundle: Bundle, precision: Precision) -> dict[str, Any]:
    """Return what the page must know besides tokenizer and graph."""
    tokenizer = bundle.tokenizer()
    before, after = ids_around(tokenizer)
    texts = _probe_texts(tokenizer)
    task = task_of(bundle.manifest.problem_type)
    logits = OnnxClassifier.open(bundle, precision=precision, threads=1).predict_logits(texts)
    return {
        "name": bundle.path.resolve().name,
        "labels": bundle.labels,
        "problem_type": bundle.manifest.problem_type,
        "threshold": THRESHOLD,
        "precision": precision,
        "max_length": bundle.manifest.max_length,
        "ids_before": before,
        "ids_after": after,
        "characters": character_classes(),
        "tolerance": TOLERANCE[precision],
        "probes": [
            {"text": text, "probabilities": row} for text, row in zip(texts, task.probabilities(logits).tolist(), strict=True)
        ],
    }


def ids_around(tokenizer: TextTokenizer) -> tuple[list[int], list[int]]:
    """Return the special ids before and after those of a text."""
    (special,) = tokenizer.encode([""])
    for word in tokenizer.vocabulary():
        ids = tokenizer.encode([word])[0].tolist()
        if len(ids) == len(special) + 1:
            place = next((index for index, id_ in enumerate(special.tolist()) if ids[index] != id_), len(special))
            return ids[:place], ids[place + 1 :]
    raise BundleError("no token of the vocabulary is read as one token; the tokenizer cannot be used")


def _probe_texts(tokenizer: TextTokenizer) -> list[str]:
    """Return texts of words of the vocabulary, always the same; the last one is longer than the model reads."""
    words = sorted(token for token in tokenizer.vocabulary() if token.isalpha()) or ["a"]
    generator = random.Random(0)  # noqa: S311
    counts = [_WORDS_PER_PROBE] * (_PROBES - 1) + [tokenizer.max_length + 1]
    return [" ".join(generator.choices(words, k=count)) for count in counts]
