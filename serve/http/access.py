"""Who may call: bearer tokens from files and the environment, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.errors import SettingsError
from serve.errors import Reason, Refusal
from serve.settings import ServeSettings

MIN_TOKEN_CHARS = 8


@dataclass(frozen=True, repr=False)
class Tokens:
    """Tokens of which any one opens."""

    values: tuple[bytes, ...]

    @classmethod
    def read(cls, file: Path | None, listed: str | None, *, name: str) -> Tokens:
        """Read tokens, one a line or separated by commas.

        Raises:
            SettingsError: The file cannot be read or names none, or a token is short.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file else []
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"cannot read the tokens in {file}: {exc}") from exc
        words = [word.strip() for word in (*lines, *(listed or "").split(","))]
        values = tuple(word.encode() for word in words if word and not word.startswith("#"))
        if file and not values:
            raise SettingsError(f"{file} holds no token; write one a line, or leave out --{name}")
        if any(len(value) < MIN_TOKEN_CHARS for value in values):
            raise SettingsError(
                f"a token of --{name} is shorter than {MIN_TOKEN_CHARS} characters; make one: openssl rand -hex 24"
            )
        return cls(values)

    def __bool__(self) -> bool:
        return bool(self.values)

    def open_for(self, authorization: bytes | None) -> bool:
        """Tell whether a header opens; every token is compared, so that time says nothing of which is close."""
        scheme, _, given = (authorization or b"").partition(b" ")
        fits = [hmac.compare_digest(given.strip(), value) for value in self.values]
        return scheme.lower() == b"bearer" and any(fits)


@dataclass(frozen=True)
class Access:
    """The two doors: callers' and administrators'."""

    callers: Tokens
    administrators: Tokens

    @classmethod
    def of(cls, settings: ServeSettings, environment: Mapping[str, str]) -> Access:
        """Read both from the settings and the environment."""
        return cls(
            Tokens.read(settings.token_file, environment.get("POTSTILL_TOKENS"), name="token-file"),
            Tokens.read(settings.admin_token_file, environment.get("POTSTILL_ADMIN_TOKENS"), name="admin-token-file"),
        )

    def require_caller(self, authorization: bytes | None) -> None:
        """Refuse who has no token, where tokens are asked for."""
        if self.callers and not self.callers.open_for(authorization):
            raise Refusal(Reason.UNAUTHORIZED, "a bearer token is needed")

    def require_administrator(self, authorization: bytes | None) -> None:
        """Refuse everybody where no administrator has a token: then the routes are not there."""
        if not self.administrators:
            raise Refusal(Reason.NOT_FOUND, "there is nothing here")
        if not self.administrators.open_for(authorization):
            raise Refusal(Reason.UNAUTHORIZED, "an administrator's bearer token is needed")
