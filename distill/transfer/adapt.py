"""Adapting an encoder to a domain's texts without labels: masked-language modelling before fine-tuning.

Gururangan et al., 2020, "Don't Stop Pretraining". The head that guesses the words is the token table itself with a bias a
token, so that a checkpoint which lacks BERT's own can be adapted too; it is thrown away afterwards.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np
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

from distill.batching import training_batches
from distill.errors import SettingsError
from distill.models.devices import Compute, computing_in, using_threads
from distill.models.loading import embedding_name, rebuilt
from distill.models.torch_classifier import TorchClassifier
from distill.progress import Reporter
from distill.tokenization import TextTokenizer
from distill.training.loop import adamw, rate_factor
from distill.transfer.features import encoder_of
from distill.transfer_settings import CarrySettings

IGNORED = -100


class TiedHead(nn.Module):
    """Scores of all tokens for a hidden state: gelu(norm(W h)) against the token table, plus a bias a token."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        with torch.no_grad():  # the states already resemble the tokens they stand for: begin by leaving them as they are
            self.dense.weight.copy_(torch.eye(width))
            self.dense.bias.zero_()

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Return scores, shape (places, tokens), of states (places, width)."""
        return self.norm(nn.functional.gelu(self.dense(states))) @ table.T + self.bias


def adapt(
    classifier: TorchClassifier, texts: Sequence[str], settings: CarrySettings, *, compute: Compute, reporter: Reporter
) -> list[float]:
    """Train the encoder in place to guess masked words of the texts; return the mean loss of each epoch, in nats a word.

    Args:
        classifier: Whose encoder; its head is not touched.
        texts: Of the target domain; labels are not needed.
        settings: Epochs, rate and masked share.
        compute: Numbers to compute in.
        reporter: Told of each step.

    Raises:
        SettingsError: There is no text, or the tokenizer has no token for a masked word.
    """
    rows = [row for row in classifier.tokenizer.encode(texts) if len(row) > 2]
    if not rows:
        raise SettingsError("there is no text to adapt to; name some with --adapt FILE")
    vocabulary = classifier.tokenizer.vocabulary()
    mask_id = next((vocabulary[token] for token in ("[MASK]", "<mask>") if token in vocabulary), None)
    if mask_id is None:
        raise SettingsError("the tokenizer has no [MASK] token, so words cannot be masked; leave out --adapt")
    encoder = encoder_of(classifier.model)
    table = classifier.model.get_input_embeddings().weight
    if not isinstance(table, Tensor):
        raise SettingsError(f"{type(classifier.model).__name__} has no table of token embeddings to guess words with")
    device = classifier.model.device
    losses = []
    with using_threads(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = TiedHead(table.shape[1], table.shape[0]).to(device)
        optimizer = adamw(encoder, head, learning_rate=settings.adapt_learning_rate, weight_decay=settings.weight_decay)
        batches = [
            training_batches(
                [len(row) for row in rows],
                batch_size=settings.batch_size,
                generator=np.random.default_rng([settings.seed, epoch]),
            )
            for epoch in range(settings.adapt_epochs)
        ]
        total = sum(map(len, batches))
        step = 0
        encoder.train()
        with reporter.task("adapting", total) as advance:
            for epoch in batches:
                sums = np.zeros(2)
                for batch in epoch:
                    padded = classifier.tokenizer.pad([rows[index] for index in batch])
                    ids = torch.from_numpy(padded.input_ids)
                    real = torch.from_numpy(padded.attention_mask)
                    masked, wanted = masked_ids(
                        ids, real, mask_id=mask_id, num_tokens=table.shape[0], share=settings.adapt_mask_share
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = settings.adapt_learning_rate * rate_factor(
                            step, total_steps=total, warmup_share=settings.warmup_share
                        )
                    optimizer.zero_grad(set_to_none=True)
                    with computing_in(compute, device):
                        states = encoder(input_ids=masked.to(device), attention_mask=real.to(device)).last_hidden_state
                        places = wanted != IGNORED
                        scores = head(states[places.to(device)], table)
                    loss = nn.functional.cross_entropy(scores.float(), wanted[places].to(device))
                    loss.backward()
                    nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], settings.max_grad_norm)
                    optimizer.step()
                    step += 1
                    sums += [float(loss.detach()) * int(places.sum()), int(places.sum())]
                    advance(1, loss=float(loss.detach()))
                losses.append(float(sums[0] / sums[1]))
        encoder.eval()
    reporter.say(f"adapting: a masked word costs {losses[0]:.2f} nats in the first epoch, {losses[-1]:.2f} in the last")
    return losses


def masked_ids(ids: Tensor, real: Tensor, *, mask_id: int, num_tokens: int, share: float) -> tuple[Tensor, Tensor]:
    """Return ids with words hidden, and what they were (`IGNORED` elsewhere), both of the shape of `ids`.

    Of the chosen words 80 % become the mask, 10 % another token, 10 % stay (Devlin et al., 2019). The first and last token
    of a text, which are special, are never chosen; at least one of each batch is.
    """
    inner = real.bool().clone()
    inner[:, 0] = False
    inner[torch.arange(len(ids)), real.sum(dim=1) - 1] = False
    chosen = inner & (torch.rand(ids.shape) < share)
    if not chosen.any():
        chosen[tuple(inner.nonzero()[0])] = True
    how = torch.rand(ids.shape)
    hidden = torch.where(chosen & (how < 0.8), mask_id, ids)
    hidden = torch.where(chosen & (how >= 0.8) & (how < 0.9), torch.randint(num_tokens, ids.shape), hidden)
    return hidden, torch.where(chosen, ids, IGNORED)


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
