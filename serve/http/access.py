"""Access: bearer tokens from files and the environment, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.errors import SettingsError
from serve.errors import Reason, Refusal
from serve.settings import ServeSettings

Audience = Literal["open", "caller", "administrator"]
"""Who may use a route."""

MIN_TOKEN_CHARS = 8


def read_tokens(file: Path | None, listed: str | None, *, name: str) -> tuple[bytes, ...]:
    """Read tokens, one a line or separated by commas.

    Raises:
        SettingsError: The file cannot be read or has no token, or a token is too short.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"cannot read the tokens in {file}: {exc}") from exc
    words = map(str.strip, (*lines, *(listed or "").split(",")))
    tokens = tuple(word.encode() for word in words if word and not word.startswith("#"))
    if file and not tokens:
        raise SettingsError(f"{file} has no token; write one per line, or omit --{name}")
    if any(len(token) < MIN_TOKEN_CHARS for token in tokens):
        raise SettingsError(
            f"a token of --{name} is shorter than {MIN_TOKEN_CHARS} characters; generate one: openssl rand -hex 24"
        )
    return tokens


def holds_one(authorization: bytes | None, tokens: Sequence[bytes]) -> bool:
    """Return whether a header holds one of the tokens; all are compared, so that timing reveals nothing."""
    scheme, _, given = (authorization or b"").partition(b" ")
    matches = [hmac.compare_digest(given.strip(), token) for token in tokens]
    return scheme.lower() == b"bearer" and any(matches)


@dataclass(frozen=True, repr=False)
class Access:
    """The tokens of callers and of administrators; any one of them grants access."""

    callers: Sequence[bytes]
    administrators: Sequence[bytes]

    @classmethod
    def of(cls, settings: ServeSettings, environment: Mapping[str, str]) -> Access:
        """Read the tokens from the settings and the environment."""
        return cls(
            read_tokens(settings.token_file, environment.get("POTSTILL_TOKENS"), name="token-file"),
            read_tokens(settings.admin_token_file, environment.get("POTSTILL_ADMIN_TOKENS"), name="admin-token-file"),
        )

    def require(self, audience: Audience, authorization: bytes | None) -> None:
        """Refuse a request whose token does not open a route of this audience.

        Without administrator tokens, administrators' routes do not exist; without caller tokens, everyone is a caller.
        """
        if audience == "administrator" and not self.administrators:
            raise Refusal(Reason.NOT_FOUND, "there is no such route")
        if audience == "administrator" and not holds_one(authorization, self.administrators):
            raise Refusal(Reason.UNAUTHORIZED, "this route needs the bearer token of an administrator")
        if audience == "caller" and self.callers and not holds_one(authorization, self.callers):
            raise Refusal(Reason.UNAUTHORIZED, "this server needs a bearer token")
