"""Access: bearer tokens from files and the environment, compared in constant time."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.errors import SettingsError
from serve.errors import Reason, Refusal
from serve.http.crowd import network_of
from serve.settings import ServeSettings

Audience = Literal["open", "caller", "administrator"]
"""Who may use a route."""

MIN_TOKEN_CHARS = 8


def read_tokens(file: Path | None, listed: str | None, *, name: Literal["token-file", "admin-token-file"]) -> tuple[bytes, ...]:
    """Read tokens, one a line or separated by commas.

    Raises:
        SettingsError: The file cannot be read or has no token, the list is set and has none, or a token is too short.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"cannot read the tokens in {file}: {exc}") from exc
    words = map(str.strip, (*lines, *(listed or "").split(",")))
    tokens = tuple(word.encode() for word in words if word and not word.startswith("#"))
    if file and not tokens:
        raise SettingsError(f"{file} has no token; write one per line, or omit --{name}")
    if listed is not None and not any(map(str.strip, listed.split(","))):
        # An empty secret must not open the server to everyone.
        variable = {"token-file": "POTSTILL_TOKENS", "admin-token-file": "POTSTILL_ADMIN_TOKENS"}[name]
        raise SettingsError(f"{variable} is set and has no token; set it to a token, or unset it")
    if any(len(token) < MIN_TOKEN_CHARS for token in tokens):
        raise SettingsError(
            f"a token of --{name} is shorter than {MIN_TOKEN_CHARS} characters; generate one: openssl rand -hex 24"
        )
    return tokens


def place_of(authorization: bytes | None, tokens: Sequence[bytes]) -> int | None:
    """Return the place of a header's token in the list, None if it has none of them.

    All are compared, so that timing reveals nothing.
    """
    scheme, _, given = (authorization or b"").partition(b" ")
    matches = [hmac.compare_digest(given.strip(), token) for token in tokens]
    return matches.index(True) if scheme.lower() == b"bearer" and any(matches) else None


@dataclass(frozen=True, repr=False)
class Access:
    """The tokens of callers and of administrators; any one of them grants access."""

    callers: Sequence[bytes]
    administrators: Sequence[bytes]

    @classmethod
    def of(cls, settings: ServeSettings, environment: Mapping[str, str]) -> Access:
        """Read the tokens from the settings and the environment.

        Raises:
            SettingsError: A list cannot be read or is empty, or other machines could call without a token.
        """
        access = cls(
            read_tokens(settings.token_file, environment.get("POTSTILL_TOKENS"), name="token-file"),
            read_tokens(settings.admin_token_file, environment.get("POTSTILL_ADMIN_TOKENS"), name="admin-token-file"),
        )
        if not (access.callers or settings.is_local or settings.allow_anonymous):
            raise SettingsError(
                f"--host {settings.host} lets other machines connect, and there are no tokens; set --token-file or "
                "POTSTILL_TOKENS, or answer everyone with --allow-anonymous"
            )
        return access

    def require(self, audience: Audience, authorization: bytes | None) -> str:
        """Return the name of the token that opens a route, "" where none is needed; refuse a request without one.

        Without administrator tokens, administrators' routes do not exist; without caller tokens, everyone is a caller.
        """
        if audience == "open" or (audience == "caller" and not self.callers):
            return ""
        if audience == "administrator" and not self.administrators:
            raise Refusal(Reason.NOT_FOUND, "there is no such route")
        place = place_of(authorization, self.administrators if audience == "administrator" else self.callers)
        if place is None:
            whose = "the bearer token of an administrator" if audience == "administrator" else "a bearer token"
            raise Refusal(Reason.UNAUTHORIZED, f"this route needs {whose}")
        return f"{audience}-{place}"


def allowed_hosts(settings: ServeSettings) -> frozenset[str] | None:
    """Return the names that the Host header may have; None: any.

    On the loopback a page of any site could otherwise reach the server under a name of its own (DNS rebinding).
    """
    if settings.allowed_hosts:
        return frozenset(map(str.lower, settings.allowed_hosts))
    if settings.uds is None and settings.is_local:
        return frozenset({"localhost", "127.0.0.1", "::1", settings.host.lower()})
    return None


def require_host(header: bytes | None, allowed: frozenset[str] | None) -> None:
    """Refuse a request for a name that is not allowed; one without the header comes from no browser."""
    if allowed is None or header is None:
        return
    host = header.decode("latin-1").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name not in allowed:
        raise Refusal(Reason.MISDIRECTED, "this server does not answer under this host name; see --allowed-hosts")


def client_of(peer: str, forwarded: bytes | None, proxies: Container[str]) -> str:
    """Return the address of the client: the peer, or the one that a trusted proxy names.

    Args:
        peer: Address of the peer; empty for a unix socket.
        forwarded: `X-Forwarded-For`; each proxy appends the address that it saw.
        proxies: Addresses of trusted proxies; "unix" for the peer of a unix socket.
    """
    if forwarded is None or (peer or "unix") not in proxies:
        return peer
    names = [name.strip() for name in forwarded.decode("latin-1").split(",")]
    named = next((name for name in reversed(names) if name not in proxies), "")
    return network_of(named) if is_address(named) else peer


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
