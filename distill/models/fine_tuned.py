"""Reading a fine-tuned sequence classifier as transformers saves it: a folder or `hub:ID`.

What the checkpoint says is read and never guessed: labels, task, tokens per text. What could not be answered as the
checkpoint's own code would answer is refused. Nothing is written, and neither pickles nor code of a checkpoint are run.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from distill.bundle import CONFIG, WEIGHTS, no_folder_words
from distill.errors import BundleError
from distill.labels import ProblemType
from distill.models.families import position_offset
from distill.models.loading import HUB, first_line, portable_tokenizer_config, quiet_transformers, require_tokenizer
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.storage import sha256_of
from distill.tokenization import TextTokenizer

INDEX = f"{WEIGHTS}.index.json"
READ_FROM_HUB = ("*.json", "*.safetensors", "*.txt", "*.model")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

UNSET_LENGTH = 1_000_000
"""transformers writes 1e30 where a tokenizer has no `model_max_length`."""

DEFAULT_LENGTH = 512
"""Tokens per text if neither tokenizer nor config say."""

MIN_KNOWN_SHARE = 0.9
"""Share of a model's token vectors that the tokenizer uses, below which it may be of another model or language."""


def folder_of(source: str) -> Path:
    """Return the folder of a source; `hub:ID` is downloaded, or found in the local hub cache.

    Raises:
        BundleError: There is no such folder, the model cannot be downloaded and is not in the cache, or a file in the cache
            is damaged.
    """
    if not source.startswith(HUB):
        if not Path(source).is_dir():
            raise BundleError(no_folder_words(source))
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source.removeprefix(HUB), allow_patterns=list(READ_FROM_HUB)))
    except (OSError, ValueError) as exc:
        raise BundleError(_not_found_words(source, exc)) from exc
    for file in sorted(folder.iterdir()):
        blob = file.resolve().name
        if len(blob) == 64 and sha256_of(file) != blob:  # large files are named by their sha256, others by a git digest
            raise BundleError(
                f"{source}: {file.name} in the local hub cache does not match its sha256; delete {file.resolve()}"
            )
    if (folder / CONFIG).is_file() and not any((folder / name).is_file() for name in (WEIGHTS, INDEX, "adapter_config.json")):
        name = source.removeprefix(HUB)
        own = Path(name.rpartition("/")[2])
        raise BundleError(
            f"{source} has no safetensors; its weights may be pickled .bin files, which are never loaded; convert them into "
            f"the folder {own} if you trust who made them: {conversion_line(name, own)}"
        )
    return folder


def config_of(source: str) -> Any:
    """Return the content of the config of a folder or of `hub:ID`, of which nothing else is downloaded.

    Raises:
        BundleError: The model of the hub cannot be downloaded and is not in the cache.
    """
    if not source.startswith(HUB):
        return json.loads((Path(source) / CONFIG).read_text(encoding="utf-8"))
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    name = source.removeprefix(HUB)
    try:
        found = try_to_load_from_cache(name, CONFIG)  # without a network, the download tries for half a minute to reach it
        path = found if isinstance(found, str) else hf_hub_download(name, CONFIG)
    except (OSError, ValueError) as exc:
        raise BundleError(_not_found_words(source, exc)) from exc
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _not_found_words(source: str, exc: Exception) -> str:
    return f"{source} cannot be downloaded and is not in the local hub cache: {first_line(exc)}; check name and network"


def load_fine_tuned(folder: Path, *, name: str, reporter: Reporter) -> TorchClassifier:
    """Load a fine-tuned classifier with its head, labels and tokenizer.

    Args:
        folder: The checkpoint.
        name: Its name in messages and in the lineage.
        reporter: Told what was read and what the checkpoint leaves open.

    Raises:
        BundleError: It is no complete classifier, or one that potstill cannot run exactly; the message says why.
    """
    config = _read_config(folder, name)
    _require_weights(folder, name)
    with quiet_transformers():
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
        except Exception as exc:  # OSError, ValueError, KeyError, RuntimeError and safetensors' own were seen
            raise BundleError(
                f"cannot load the model of {name}: {first_line(exc)}; the checkpoint is damaged, or not a sequence classifier "
                "that transformers knows: save or copy it again"
            ) from exc
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as exc:  # as above, and a bare Exception of tokenizers
            raise BundleError(
                f"{name} has no tokenizer that can be read or converted to a fast one: {first_line(exc)}; save it there "
                "with `AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(FOLDER)`"
            ) from exc
    _require_head(model, loading, name, config)
    require_tokenizer(name, model, tokenizer)
    known, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if known < MIN_KNOWN_SHARE * rows:  # tables are rounded up, but not by so much
        reporter.say(f"adopt: {name} has vectors for {rows:,} tokens, its tokenizer knows {known:,}: is it of another model?")
    labels = _labels(model, name)
    if tokenizer.truncation_side != "right" or tokenizer.padding_side != "right":
        reporter.say(f"adopt: {name} cuts or pads on the left; potstill cuts the end of longer texts and pads on the right")
    return TorchClassifier(
        model=model.eval(),
        tokenizer=TextTokenizer(
            tokenizer.backend_tokenizer,
            max_length=_max_length(model, tokenizer, name, reporter),
            pad_id=int(tokenizer.pad_token_id),
        ),
        # Whether the model was told which text of a pair a token is of: not in the file where it is the default of a class.
        tokenizer_config={**portable_tokenizer_config(tokenizer), "model_input_names": list(tokenizer.model_input_names)},
        labels=labels,
        origin=name,
        problem_type=_problem_type(model, name),
    )


def has_head(config: Mapping[str, Any]) -> bool:
    """Return whether a config is of a classifier; an encoder is a `BertModel` or `BertForMaskedLM`."""
    return any(str(kind).endswith("ForSequenceClassification") for kind in config.get("architectures") or ())


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of config.json after refusing what is not a plain classifier of transformers."""
    found = {path.name for path in folder.iterdir()}
    if "model_head.pkl" in found:
        raise BundleError(
            f"{name} is a setfit model: its head is a pickle, which can run any code and is never loaded; fine-tune it "
            f"with `potstill teacher --model {folder}`"
        )
    if "adapter_config.json" in found:
        raise BundleError(
            f"{name} is a LoRA adapter, not a whole model; save the result of peft's `merge_and_unload()` instead"
        )
    if CONFIG not in found:
        checkpoints = sorted(one for one in found if one.startswith("checkpoint-"))
        advice = f"name one of its checkpoints, such as {folder / checkpoints[-1]}" if checkpoints else "name another folder"
        raise BundleError(f"{name} has no {CONFIG}, so it is no model that transformers saved; {advice}")
    for file in (CONFIG, "tokenizer_config.json"):
        try:
            values = json.loads((folder / file).read_text(encoding="utf-8")) if file in found else {}
        except (ValueError, OSError) as exc:
            raise BundleError(f"{name}: {file} is not JSON ({exc}); the checkpoint is damaged: save or copy it again") from exc
        if values.get("auto_map"):
            raise BundleError(
                f"{name}: {file} asks to run code of its own (auto_map), which potstill never does; use a model whose code is "
                "in transformers"
            )
        if file == CONFIG:
            config: dict[str, Any] = values
    if "modules.json" in found and not has_head(config):  # a cross-encoder has one
        raise BundleError(
            f"{name} is a sentence-transformers encoder without a classification head; fine-tune it with "
            f"`potstill teacher --model {folder}`"
        )
    if config.get("quantization_config"):
        raise BundleError(f"{name} is quantized already; adopt the checkpoint in full precision that it was made from")
    return config


def _require_weights(folder: Path, name: str) -> None:
    """Refuse a checkpoint without whole safetensors files."""
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        try:
            shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as exc:
            raise BundleError(f"{name}: {INDEX} is damaged ({exc}); save or copy the checkpoint again") from exc
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise BundleError(f"{name}: {len(missing)} of {len(shards)} weight files are missing, the first is {missing[0]}")
        return
    if any((folder / one).is_file() for one in PICKLED):
        raise BundleError(
            f"{name} has its weights in pickled .bin files, which are never loaded; convert them if you trust who made them: "
            f"{conversion_line(folder, folder)}"
        )
    raise BundleError(f"{name} has a {CONFIG} but no {WEIGHTS}: it is half a checkpoint; save or copy it again")


def conversion_line(source: Path | str, folder: Path) -> str:
    """Return the command that writes model and tokenizer of a source as safetensors and JSON."""
    code = (
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T; "
        f"[one.from_pretrained({str(source)!r}).save_pretrained({str(folder)!r}) for one in (M, T)]"
    )
    return f"python -c {shlex.quote(code)}"


def _require_head(model: PreTrainedModel, loading: dict[str, Any], name: str, config: dict[str, Any]) -> None:
    """Refuse weights that transformers drew at random, or that are not numbers."""
    missing = sorted(loading["missing_keys"])
    if missing:
        kind = ", ".join(config.get("architectures") or ["a model of another kind"])
        raise BundleError(
            f"{name} is {kind} without {len(missing)} weights of a sequence classifier, the first is {missing[0]}; "
            "fine-tune it with `potstill teacher --model`, or save the whole classifier again"
        )
    broken = next((key for key, value in model.state_dict().items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise BundleError(f"{name}: {broken} has values that are not finite; the checkpoint is damaged: save or copy it again")


def _labels(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    named: dict[Any, Any] = dict(model.config.id2label or {})
    if sorted(named) != list(range(int(model.config.num_labels or 0))) or len({str(label) for label in named.values()}) != len(
        named
    ):
        raise BundleError(f"{name}: id2label in {CONFIG} must name {model.config.num_labels} distinct labels, it has {named}")
    return tuple(str(named[index]) for index in range(len(named)))


def _problem_type(model: PreTrainedModel, name: str) -> ProblemType:
    """Return the task; as in transformers, one logit without a named task is a regression."""
    task: ProblemType | None = model.config.problem_type
    if task == "regression" or (task is None and model.config.num_labels == 1):
        raise BundleError(
            f"{name} is a regression model: it returns a number, not a label, and potstill distils classifiers; for a "
            "classifier, set problem_type in its config.json"
        )
    if task != "multi_label_classification" and model.config.num_labels == 1:
        raise BundleError(f"{name} has one label, so it would give every text the same answer")
    return task or "single_label_classification"


def _max_length(model: PreTrainedModel, tokenizer: Any, name: str, reporter: Reporter) -> int:
    """Return how many tokens of a text the model reads: the smaller of the tokenizer's and the position table's limit."""
    own = tokenizer.model_max_length
    positions = getattr(model.config, "max_position_embeddings", None) or math.inf
    limit = min(own if own < UNSET_LENGTH else math.inf, positions - position_offset(model.config))
    if limit == math.inf:
        reporter.say(f"adopt: {name} does not say how many tokens it reads; {DEFAULT_LENGTH} are read")
        return DEFAULT_LENGTH
    if limit < 4:
        raise BundleError(f"{name} reads {limit} tokens of a text; at least 4 are needed")
    return int(limit)
