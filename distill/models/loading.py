"""Making PyTorch classifiers: from a folder, a hub id, the packaged encoder or a bundle, or from a config and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from distill.bundle import CONFIG, MANIFEST, TOKENIZER_CONFIG, WEIGHTS, Bundle
from distill.errors import BundleError, SettingsError
from distill.labels import ProblemType
from distill.models.devices import on_device
from distill.models.packaged import FOLDER_OF
from distill.models.static_network import MODEL_TYPE, StaticClassifier, StaticConfig
from distill.models.torch_classifier import TorchClassifier, require_max_length
from distill.tokenization import TextTokenizer

HUB = "hub:"


def load_pretrained(
    source: str,
    *,
    labels: Sequence[str],
    max_length: int,
    seed: int,
    problem_type: ProblemType = "single_label_classification",
) -> TorchClassifier:
    """Load an encoder with a classification head for `labels`.

    If the checkpoint has no head, or one for another number of labels, the head is drawn from `seed`.

    Args:
        source: A folder, a bundle, a hub id (`hub:ID` or `ID`), `builtin:minilm` or `builtin:mpnet`.
        labels: Label names, in order.
        max_length: Tokens kept per text.
        seed: Seed of a new head.
        problem_type: How its logits become probabilities.

    Raises:
        SettingsError: The model has fewer positions than `max_length`, or no fast tokenizer.
        BundleError: The source has no complete model, or its weights are not safetensors.
    """
    packaged = FOLDER_OF.get(source := source.removeprefix(HUB))
    folder = packaged() if packaged else source
    if Path(folder).is_dir() and (Path(folder) / MANIFEST).is_file():
        Bundle.open(folder)  # raises if it is damaged
        if is_static(Path(folder)):
            raise SettingsError(f"{folder} is a static student, which cannot be fine-tuned; name an encoder")
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=len(labels),
                id2label=dict(enumerate(labels)),
                label2id={name: index for index, name in enumerate(labels)},
                problem_type=problem_type,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as exc:  # OSError, ValueError, KeyError, safetensors' own and a bare Exception were seen
            raise BundleError(
                f"cannot load a model from {source}: {first_line(exc)}; expected config.json, model.safetensors (pickled "
                "weights are never loaded) and tokenizer files, in a folder or on the hub"
            ) from exc
    _require_encoder_weights(source, model, loading)
    require_tokenizer(source, model, tokenizer)
    require_max_length(model.config, max_length)
    return TorchClassifier(
        model=model,
        tokenizer=TextTokenizer(tokenizer.backend_tokenizer, max_length=max_length, pad_id=int(tokenizer.pad_token_id)),
        tokenizer_config=portable_tokenizer_config(tokenizer),
        labels=tuple(labels),
        origin=source if packaged or not Path(source).exists() else Path(source).resolve().name,
        problem_type=problem_type,
    )


def load_bundle(bundle: Bundle) -> TorchClassifier:
    """Load the PyTorch model of a bundle."""
    bundle.weights()  # raises, with the reason, if there are none
    values = json.loads(bundle.read(CONFIG))
    kind = values.get("model_type")
    try:
        # Not registered with transformers: that would change what AutoConfig loads in the whole process.
        config_class = StaticConfig if kind == MODEL_TYPE else CONFIG_MAPPING[kind]
    except KeyError as exc:
        raise BundleError(f"{bundle.path / CONFIG}: this version of transformers has no model type {kind!r}") from exc
    with quiet_transformers():
        model = blank_model(config_class.from_dict(values))
    # strict: a bundle with missing or additional weights must not load
    model.load_state_dict(safetensors.torch.load(bundle.read(WEIGHTS)), strict=True)
    return TorchClassifier(
        model=model.eval(),
        tokenizer=bundle.tokenizer(),
        tokenizer_config=json.loads(bundle.read(TOKENIZER_CONFIG)),
        labels=bundle.labels,
        origin=bundle.manifest.lineage.base_model,
        problem_type=bundle.manifest.problem_type,
    )


def blank_model(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model with random weights, to be overwritten; the random state of the caller does not change."""
    with torch.random.fork_rng(devices=[]):
        if isinstance(config, StaticConfig):
            return StaticClassifier(config)
        return AutoModelForSequenceClassification.from_config(config)


def is_static(folder: Path) -> bool:
    """Return whether the folder's model is a static classifier, which transformers does not know."""
    return bool(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' load reports and progress bars inside the block: they warn of a new head, which is expected."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _require_encoder_weights(source: str, model: PreTrainedModel, loading: dict[str, Any]) -> None:
    """Raise `BundleError` if transformers drew a part of the encoder at random; a new pooler and head are expected."""
    drawn = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    encoder = sorted(name for name in drawn if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name)
    if encoder:
        raise BundleError(
            f"{source}: {len(encoder)} weights of the encoder are missing or differ in shape from its config.json, the first "
            f"is {encoder[0]}; this is not a complete {model.config.model_type} model"
        )


def require_tokenizer(source: str, model: PreTrainedModel, tokenizer: Any) -> None:
    """Refuse a slow tokenizer, another model's, or an empty one, which transformers makes if files are missing."""
    if getattr(tokenizer, "backend_tokenizer", None) is None or tokenizer.pad_token_id is None:
        raise SettingsError(f"{source} has no fast tokenizer with a padding token, which potstill needs")
    vocabulary = tokenizer.get_vocab()
    rows = model.get_input_embeddings().num_embeddings
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise BundleError(f"{source} has no tokenizer files; copy tokenizer.json and tokenizer_config.json beside the weights")
    if max(vocabulary.values()) >= rows:
        raise BundleError(
            f"{source}: the tokenizer has ids up to {max(vocabulary.values())}, but the model has vectors for {rows} tokens; "
            "the tokenizer is of another model"
        )


def first_line(exc: Exception) -> str:
    """Return the first line of an exception's message without the full stop, or its type if it has none."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__).rstrip(".")


def portable_tokenizer_config(tokenizer: Any) -> dict[str, Any]:
    """Return what a transformers tokenizer needs beside `tokenizer.json`: its class and its special tokens."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }


def rebuilt(
    classifier: TorchClassifier,
    *,
    config: PretrainedConfig,
    weights: Mapping[str, Tensor],
    tokenizer: TextTokenizer | None = None,
) -> TorchClassifier:
    """Return a new classifier of this config with exactly these weights.

    Args:
        classifier: Source of labels, origin, device and everything else that is not given below.
        config: Config of the new model, which may be of another class than the old one.
        weights: Every weight of the new model by its name; a missing one would be random, so it raises an error.
        tokenizer: Tokenizer of the new classifier; None keeps the old one.
    """
    model = blank_model(config)
    model.load_state_dict(weights, strict=True)
    return replace(
        classifier, model=on_device(model.eval(), classifier.model.device), tokenizer=tokenizer or classifier.tokenizer
    )


def embedding_name(classifier: TorchClassifier) -> str:
    """Return the name of the table of token embeddings among the model's weights.

    Raises:
        SettingsError: The model has no such table.
    """
    table = classifier.token_table()
    return next(name for name, parameter in classifier.model.named_parameters() if parameter is table)
