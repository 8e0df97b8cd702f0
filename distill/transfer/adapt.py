"""Adapt an encoder before fine-tuning: masked language modelling on unlabelled texts, and a vocabulary for a new language.

Gururangan et al., 2020, "Don't Stop Pretraining". The head that predicts the tokens is the embedding table plus a bias per
token, so a checkpoint without BERT's own head can be adapted too; it is discarded afterwards.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Metaspace, Punctuation
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn

from distill.errors import SettingsError
from distill.losses.objective import Objective, StepLoss, TrainingBatch
from distill.models.loading import embedding_name, rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.texts import TextInput, joined
from distill.tokenization import TextTokenizer
from distill.transfer.features import encoder_of

IGNORED = -100
"""Target of a token that is not predicted; the value that torch's cross-entropy skips by default."""


class MaskedWords(Objective):
    """Cross-entropy of masked tokens, in nats per token: norm(gelu(W h)) times the embedding table, plus a bias per token.

    Raises:
        SettingsError: The tokenizer has no mask token, or the model has no embedding table.
    """

    def __init__(self, classifier: TorchClassifier, *, mask_share: float) -> None:
        """Make the head for the encoder of a classifier; `mask_share` of the tokens are predicted."""
        super().__init__(())
        encoder_of(classifier.model)  # refuses a model without one
        vocabulary = classifier.tokenizer.vocabulary()
        mask_id = next((vocabulary[token] for token in ("[MASK]", "<mask>") if token in vocabulary), None)
        if mask_id is None:
            raise SettingsError("the tokenizer has no [MASK] token, so tokens cannot be masked; leave out --adapt")
        table = classifier.model.get_input_embeddings().weight
        if not isinstance(table, Tensor):
            raise SettingsError(
                f"{type(classifier.model).__name__} has no embedding table to predict tokens with; leave out --adapt"
            )
        self._mask_id = mask_id
        self._mask_share = mask_share
        num_tokens, width = table.shape
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        nn.init.eye_(self.dense.weight)  # hidden states already resemble the embeddings of their tokens
        nn.init.zeros_(self.dense.bias)
        self.to(classifier.model.device)

    def forward(self, model: Any, batch: TrainingBatch) -> StepLoss:
        """Mask tokens of a batch, and return the mean loss of predicting them."""
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        table = model.get_input_embeddings().weight
        # Sampled on the CPU, so that every device masks the same tokens.
        masked, wanted = masked_ids(ids.cpu(), real.cpu(), mask_id=self._mask_id, num_tokens=len(table), share=self._mask_share)
        states = encoder_of(model)(input_ids=masked.to(ids.device), attention_mask=real).last_hidden_state
        chosen = wanted != IGNORED
        targets = wanted[chosen].to(ids.device)
        scores = self.norm(nn.functional.gelu(self.dense(states[chosen.to(ids.device)]))) @ table.T + self.bias
        with torch.autocast(ids.device.type, enabled=False):
            total = nn.functional.cross_entropy(scores.float(), targets, reduction="sum") / max(1, len(targets))
        return StepLoss(total, {}, num_items=len(targets))


def masked_ids(ids: Tensor, real: Tensor, *, mask_id: int, num_tokens: int, share: float) -> tuple[Tensor, Tensor]:
    """Return ids with some masked, and their targets (`IGNORED` elsewhere), both of the shape of `ids`.

    Of the chosen tokens, 80 % become the mask, 10 % a random token, and 10 % stay as they are (Devlin et al., 2019). The first
    and last token of a text, which are special, are never chosen. At least one token of each batch is, if there is one: a mean
    over no token is not a number. transformers' DataCollatorForLanguageModeling does not guarantee that.
    """
    inner = real == 1
    inner[:, 0] = False
    inner[torch.arange(len(ids)), real.sum(dim=1) - 1] = False
    chosen = inner & (torch.rand(ids.shape) < share)
    if not chosen.any() and inner.any():
        chosen[tuple(inner.nonzero()[0])] = True
    how = torch.rand(ids.shape)
    hidden = torch.where(chosen & (how < 0.8), mask_id, ids)
    hidden = torch.where(chosen & (how >= 0.8) & (how < 0.9), torch.randint(num_tokens, ids.shape), hidden)
    return hidden, torch.where(chosen, ids, IGNORED)


PAD, UNKNOWN, FIRST, LAST, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD = "\u2581"
"""Marks the first token of a word."""


def with_new_vocabulary(classifier: TorchClassifier, texts: Sequence[TextInput], *, size: int, seed: int) -> TorchClassifier:
    """Return the classifier with a tokenizer trained on the texts, and embeddings for its tokens.

    A token that both vocabularies contain, such as a digit or a Latin word, keeps its embedding. The others are random with
    the mean and the standard deviation of the old table per channel, so that frozen layers get inputs of the same scale.

    Args:
        classifier: A model whose tokenizer has BERT's five special tokens.
        texts: Texts in the new language; labels are not needed.
        size: Maximum number of tokens, special ones included.
        seed: Seed of the random embeddings.

    Raises:
        SettingsError: The tokenizer has other special tokens, or there are no texts.
    """
    old = classifier.tokenizer.vocabulary()
    if missing := [token for token in SPECIAL if token not in old]:
        raise SettingsError(
            f"a new vocabulary needs a model with BERT's special tokens, and this tokenizer has no {missing[0]}; "
            "leave out --new-vocabulary"
        )
    tokenizer = TextTokenizer.from_json(
        trained_tokenizer(texts, size=size),
        max_length=classifier.tokenizer.max_length,
        pad_id=SPECIAL.index(PAD),
        pairs=classifier.tokenizer.pairs,
    )
    new = tokenizer.vocabulary()
    config = copy.deepcopy(classifier.model.config)
    config.vocab_size, config.pad_token_id = len(new), tokenizer.pad_id
    weights = classifier.model.state_dict()
    name = embedding_name(classifier)
    deviations, means = (found.cpu() for found in torch.std_mean(weights[name], dim=0))
    random = torch.randn(len(new), len(means), generator=torch.Generator().manual_seed(seed))
    table = (random * deviations + means).to(weights[name])
    kept = {new[token]: old[word] for token in new if (word := token.removeprefix(WORD)) in old}
    table[list(kept)] = weights[name][list(kept.values())]
    made = rebuilt(classifier, config=config, weights={**weights, name: table}, tokenizer=tokenizer)
    made.tokenizer_config = {
        **classifier.tokenizer_config,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    }
    return made


def trained_tokenizer(texts: Sequence[TextInput], *, size: int) -> str:
    """Return the content of a `tokenizer.json`: byte-pair encoding, trained on the texts, BERT's special tokens first.

    White space and punctuation end a word, and the first token of a word is marked. Chinese has neither inside a clause, so
    its tokens are the common strings of characters: single characters and words. Only the most frequent characters are kept;
    they are at most half of all tokens.

    Args:
        texts: Texts to train on.
        size: Maximum number of tokens, special ones included.

    Raises:
        SettingsError: There are no texts.
    """
    if not texts:
        raise SettingsError("--new-vocabulary trains a tokenizer on texts, but there are none")
    # Not WordPiece: its trainer breaks ties in the order of a hash table, so each run returns different tokens.
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizers([Metaspace(), Punctuation()])
    counts = Counter(character for text in texts for character in tokenizer.normalizer.normalize_str(joined(text)))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = [WORD, *(character for character in frequent if not character.isspace())][: size // 2]
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(joined, texts), trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)],
    )
    return str(tokenizer.to_str())
