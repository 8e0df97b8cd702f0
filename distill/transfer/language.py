"""Another language over layers that have learnt one: a tokenizer and token vectors of its own, the layers kept.

Artetxe, Ruder and Yogatama, 2020, "On the Cross-lingual Transferability of Monolingual Representations": what the layers know
is not bound to the words they learnt it from. Makes the tokenizer and draws the vectors; learning them is `adapt`'s job and
that of fine-tuning, both with the layers frozen if so wished.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Metaspace, Punctuation
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from distill.errors import SettingsError
from distill.tokenization import TextTokenizer
from distill.training.models import TorchClassifier
from distill.training.students.rebuilding import embedding_name, rebuilt

PAD, UNKNOWN, FIRST, LAST, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD = "\u2581"
"""How a piece is marked that begins a word."""


def with_new_vocabulary(classifier: TorchClassifier, texts: Sequence[str], *, size: int, seed: int) -> TorchClassifier:
    """Return the classifier with a tokenizer trained on the texts, and vectors for its tokens.

    A token that both vocabularies have, such as a digit or a Latin word, keeps its vector. The others are drawn, channel by
    channel, with the mean and the deviation of the old table, so that the frozen layers see numbers of the size they know.

    Args:
        classifier: Of BERT's family: with its five special tokens.
        texts: In the new language; labels are not needed.
        size: Tokens at most, special ones included.
        seed: Of the drawn vectors.

    Raises:
        SettingsError: The tokenizer has other special tokens, or there are no texts.
    """
    old = classifier.tokenizer.vocabulary()
    if missing := [token for token in SPECIAL if token not in old]:
        raise SettingsError(
            f"a new vocabulary is learnt for models with BERT's special tokens, and this tokenizer has no {missing[0]}; "
            "leave out --new-vocabulary"
        )
    content = trained_tokenizer(texts, size=size)
    tokenizer = TextTokenizer.from_json(content, max_length=classifier.tokenizer.max_length, pad_id=SPECIAL.index(PAD))
    new = tokenizer.vocabulary()
    config = copy.deepcopy(classifier.model.config)
    config.vocab_size, config.pad_token_id = len(new), tokenizer.pad_id
    weights = classifier.model.state_dict()
    name = embedding_name(classifier)
    table = _drawn_like(weights[name], len(new), seed=seed)
    both = [(new[token], old[word]) for token in new if (word := token.removeprefix(WORD)) in old]
    table[[place for place, _ in both]] = weights[name][[place for _, place in both]]
    made = rebuilt(classifier, config=config, weights={**weights, name: table}, tokenizer=tokenizer)
    made.tokenizer_config = {
        **classifier.tokenizer_config,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    }
    return made


def trained_tokenizer(texts: Sequence[str], *, size: int) -> str:
    """Return the content of a `tokenizer.json`: byte-pair encoding, trained on the texts, BERT's special tokens first.

    White space and punctuation end a word, and a piece that begins one is marked. Chinese has neither inside a clause, so there
    the pieces are whatever strings of characters are common: single ones and words. Of the characters the commonest stay, at
    most half of all tokens.

    Args:
        texts: To learn from.
        size: Tokens at most, special ones included.

    Raises:
        SettingsError: There are no texts.
    """
    if not texts:
        raise SettingsError("a new vocabulary is learnt from texts, and none were given")
    # Not WordPiece: its trainer breaks ties by the order of a hash table, and gives other tokens each time.
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizers([Metaspace(), Punctuation()])
    counts = Counter(character for text in texts for character in tokenizer.normalizer.normalize_str(text))
    commonest = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = [WORD, *(character for character in commonest if not character.isspace())][: size // 2]
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{FIRST} $A {LAST}", pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1", special_tokens=ends
    )
    return str(tokenizer.to_str())


def _drawn_like(table: Tensor, rows: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    deviations, means = (found.cpu() for found in torch.std_mean(table, dim=0))
    drawn = torch.randn(rows, table.shape[1], generator=generator) * deviations + means
    return drawn.to(table)
