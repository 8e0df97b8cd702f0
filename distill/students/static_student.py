"""A static student: token vectors from the teacher, all other weights random from a seed.

Each token is passed through the teacher alone, between the special tokens, and its last hidden state becomes its vector, as
in model2vec (van Dongen and Tulkens, 2024). The last state of a fine-tuned teacher depends on the labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distill.models.devices import evaluating, on_device
from distill.models.static_network import StaticClassifier, StaticConfig
from distill.models.torch_classifier import TorchClassifier
from distill.settings import StudentSettings

_TOKENS_AT_ONCE = 1024


def build_static(teacher: TorchClassifier, settings: StudentSettings, *, seed: int) -> TorchClassifier:
    """Return a static classifier with the teacher's tokenizer and labels; the teacher is not changed.

    Args:
        teacher: An encoder; its vocabulary becomes the student's.
        settings: Window, features and head.
        seed: For all weights except the token vectors.
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
    """Return the teacher's last hidden state of each token alone, shape (tokens, hidden size).

    Centred, and scaled to a mean square of 1: the size of the optimiser's steps does not depend on the size of a weight, so
    training would overwrite a table of small values within a few steps.
    """
    (special,) = teacher.tokenizer.encode([""])
    place = len(special) // 2
    row = torch.from_numpy(np.insert(special, place, 0))
    seen = []
    with evaluating(teacher.model), torch.inference_mode():
        for tokens in torch.arange(len(teacher.token_table())).split(_TOKENS_AT_ONCE):
            ids = row.repeat(len(tokens), 1).to(teacher.model.device)
            ids[:, place] = tokens
            output = teacher.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
            seen.append(output.hidden_states[-1][:, place].float().cpu().clone())
    vectors = torch.cat(seen)
    vectors = vectors - vectors.mean(dim=0)
    return vectors / vectors.pow(2).mean().sqrt().clamp(min=1e-12)
