"""What a `tokenizer.json` may contain, so that no text takes time or memory out of proportion to its length.

A tokenizer is data, but data that runs: a regular expression can backtrack for hours, and a replacement can make a text a
thousand times longer. Everything is read from the loaded tokenizer, not from its file, so that both can never disagree.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from distill.errors import BundleError

_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s+(?!\S)|\s+"

KNOWN_PATTERNS: Final = frozenset(
    {
        # GPT-2 and the tokenizers made from it, then those of cl100k, Llama 3, Qwen 2 and 3.5, o200k
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES,
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES,
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES,
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + _SPACES,
        # CLIP, with and without its two special tokens
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        # BLOOM, and the digits of Falcon, StarCoder and DeepSeek
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
        "[0-9][0-9][0-9]",
        r"\p{N}",
        r"\p{N}{1,3}",
        # white space in the SentencePiece tokenizers of transformers
        " {2,}",
        r"\s+",
        r"\s{2,}|[\n\r\t]",
        r"[\n\r\t]",
        r"\n",
    }
)
"""Regular expressions of published tokenizers. Each takes time in proportion to the text on 100,000 characters chosen against
it; ` +▁`, which is not here, took a minute for a line of spaces."""

MAX_PARTS: Final = 32
MAX_PREPENDED_CHARS: Final = 16
# NFKC makes the longest of one character: U+FDFA becomes 33 bytes.
MAX_MAPPED_BYTES: Final = 64
# Longest word that WordPiece takes apart, with cubic effort, and longest token of a Unigram vocabulary, of which each character
# of a text may try every beginning.
MAX_WORDPIECE_CHARS: Final = 256
MAX_UNIGRAM_CHARS: Final = 256


def require_bounded(tokenizer: Tokenizer, *, source: Path, max_length: int) -> None:
    """Refuse a tokenizer that could need time or memory out of proportion to a text.

    Args:
        tokenizer: Loaded from a bundle.
        source: Its file, for messages.
        max_length: Largest number of tokens of a text.

    Raises:
        BundleError: It has a regular expression that is not one of `KNOWN_PATTERNS`, makes texts longer, or adds tokens without
            bound.
    """
    parts = [*_parts(tokenizer.normalizer, "normalizers"), *_parts(tokenizer.pre_tokenizer, "pretokenizers")]
    problem = f"it has {len(parts)} steps" if len(parts) > MAX_PARTS else None
    if sum(part["type"] == "Precompiled" for part in parts) > 1:
        problem = "it has several Precompiled steps, each of which can make a text longer"
    problem = problem or next(filter(None, map(_problem_with_part, parts)), None)
    problem = problem or _problem_with_model(tokenizer) or _problem_with_template(tokenizer, max_length)
    if problem is not None:
        raise BundleError(
            f"{source} is not a tokenizer that potstill runs: {problem}, so a short text could take hours or all memory; train "
            "with another encoder's tokenizer"
        )


def _parts(step: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, those inside sequences one by one."""
    waiting = [] if step is None else [json.loads(step.__getstate__())]
    while waiting:
        part = waiting.pop()
        if part["type"] == "Sequence":
            waiting.extend(part[key])
        else:
            yield part


def _problem_with_part(part: dict[str, Any]) -> str | None:
    kind, pattern = part["type"], part.get("pattern", {})
    regex = pattern.get("Regex")
    if regex is not None and regex not in KNOWN_PATTERNS:
        return f"its {kind} has the unknown regular expression {regex[:100]!r}"
    if kind == "Replace" and len(part["content"]) > len(pattern.get("String", " ")):
        return f"its Replace puts {part['content'][:20]!r} in place of a shorter text"
    if kind == "Prepend" and len(part["prepend"]) > MAX_PREPENDED_CHARS:
        return f"its Prepend adds {len(part['prepend']):,} characters to a text"
    if kind == "Precompiled":
        # A table of replacements, each of which ends with a zero byte, after a trie whose size is in the first four bytes.
        table = base64.b64decode(part["precompiled_charsmap"] or "")
        replacements = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
        longest = max(map(len, replacements))
        if longest > MAX_MAPPED_BYTES:
            return f"its Precompiled makes {longest:,} bytes of a character"
    return None


def _problem_with_model(tokenizer: Tokenizer) -> str | None:
    model = tokenizer.model
    word = getattr(model, "max_input_chars_per_word", 0)
    if word > MAX_WORDPIECE_CHARS:
        return f"its WordPiece takes words of {word:,} characters apart"
    if type(model).__name__ == "Unigram":
        longest = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=0)
        if longest > MAX_UNIGRAM_CHARS:
            return f"its vocabulary has a token of {longest:,} characters"
    return None


def _problem_with_template(tokenizer: Tokenizer, max_length: int) -> str | None:
    """Return why a text could get more tokens than `max_length`, which is applied before special tokens are added."""
    special = max(tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True))
    if special > max_length:
        return f"it adds {special:,} special tokens to each text"
    post = tokenizer.post_processor
    waiting = [] if post is None else [json.loads(post.__getstate__())]
    while waiting:
        part = waiting.pop()
        waiting.extend(part.get("processors", ()))
        for template in (part.get("single", ()), part.get("pair", ())) if part["type"] == "TemplateProcessing" else ():
            names = [piece["Sequence"]["id"] for piece in template if "Sequence" in piece]
            if len(set(names)) != len(names):
                return "its template repeats the text"
    return None
