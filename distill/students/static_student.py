"""Making a static student: token vectors from the teacher, everything else at random from a seed.

Each token is shown to the teacher alone, between the special tokens, and what the teacher's last layer makes of it becomes its
vector, as in model2vec (van Dongen and Tulkens, 2024). A fine-tuned teacher has by then written into it what it
thinks of the word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distill.models.devices import on_device
from distill.models.static_network import StaticClassifier, StaticConfig
from distill.models.torch_classifier import TorchClassifier
from distill.settings import StudentSettings

_TOKENS_AT_ONCE = 1024


def build_static(teacher: TorchClassifier, settings: StudentSettings, *, seed: int) -> TorchClassifier:
    """Return a static classifier with the teacher's tokenizer and labels; the teacher stays as it is.

    Args:
        teacher: Whose vectors they are, an encoder; its vocabulary becomes the student's.
        settings: Window, features and head.
        seed: Draws all weights but the vectors.
    """
    vectors = token_vectors(teacher)
    config = StaticConfig(
        vocab_size=len(vectors),
        pad_token_id=teacher.tokenizer.pad_id,
        hidden_size=vectors.shape[1],
        window=settings.static_window,
        num_features=settings.static_features,
        head_size=settings.static_head,
        id2label=dict(enumerate(teacher.labels)),
        label2id={name: index for index, name in enumerate(teacher.labels)},
        problem_type=teacher.problem_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StaticClassifier(config)
    with torch.no_grad():
        model.token_embeddings.weight.copy_(vectors)
        model.token_embeddings.weight[config.pad_token_id] = 0
    return replace(teacher, model=on_device(model.eval(), teacher.model.device))


def token_vectors(teacher: TorchClassifier) -> Tensor:
    """Return what the teacher makes of each token alone, shape (tokens, hidden size).

    Centred, and scaled to a mean square of 1: the optimiser's steps do not depend on a weight's size, so a table of
    small numbers would be learnt anew in a few of them.
    """
    rows = _alone(teacher)
    place = rows.index(-1)
    tokens = torch.arange(len(teacher.input_vectors()))
    seen = [_seen(teacher, rows, place, some) for some in tokens.split(_TOKENS_AT_ONCE)]
    vectors = torch.cat(seen)
    vectors = vectors - vectors.mean(dim=0)
    return vectors / vectors.pow(2).mean().sqrt().clamp(min=1e-12)


def _alone(teacher: TorchClassifier) -> list[int]:
    """The ids of a text of one token, with -1 in that token's place."""
    (special,) = teacher.tokenizer.encode([""])
    middle = len(special) // 2
    return [*special[:middle].tolist(), -1, *special[middle:].tolist()]


def _seen(teacher: TorchClassifier, row: Sequence[int], place: int, tokens: Tensor) -> Tensor:
    ids = torch.tensor(np.asarray(row)).repeat(len(tokens), 1)
    ids[:, place] = tokens
    ids = ids.to(teacher.model.device)
    with torch.inference_mode():
        said = teacher.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    return said.hidden_states[-1][:, place].float().cpu().clone()
