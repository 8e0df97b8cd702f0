"""A text, or a pair of texts that are classified together, such as a question and an answer."""

from __future__ import annotations

TextInput = str | tuple[str, str]
"""A single text, or a sentence pair."""

# No byte of a text in UTF-8 is 0xff, lone surrogates included.
_BETWEEN = b"\xff"


def parts_of(text: TextInput) -> tuple[str, ...]:
    """Return the text alone, or both texts of a pair."""
    return text if isinstance(text, tuple) else (text,)


def of_parts(parts: tuple[str, ...]) -> TextInput:
    """Return a text of one part, a pair of two."""
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def num_chars(text: TextInput) -> int:
    """Return how many characters a text has, or both texts of a pair."""
    return sum(map(len, parts_of(text)))


def joined(text: TextInput) -> str:
    """Return the text, or both texts of a pair with a space between them: for bags of words and for messages."""
    return text if isinstance(text, str) else " ".join(text)


def content_of(text: TextInput) -> bytes:
    """Return bytes that only this text, or this pair, has: its UTF-8, or both with a byte between them that UTF-8 lacks."""
    # surrogatepass: a lone surrogate must not fail here; the tokenizer refuses it and names the text.
    return _BETWEEN.join(part.encode(errors="surrogatepass") for part in parts_of(text))


def of_content(content: bytes) -> TextInput:
    """Return the text or the pair of these bytes."""
    return of_parts(tuple(part.decode(errors="surrogatepass") for part in content.split(_BETWEEN)))
