"""Settings of the server: limits, access, and how it starts and stops."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from distill.errors import SettingsError
from distill.settings import LongTexts, Precision, Settings
from export.trust.pins import TrustSettings


class LimitSettings(Settings, heading="Limits"):
    """What one model accepts."""

    precision: Precision | None = Field(None, description="graph to run; default: int8 if the bundle has it, else fp32")
    max_texts: int = Field(1024, ge=1, description="maximum texts per request")
    max_text_chars: int = Field(100_000, ge=1, description="maximum characters per text")
    long_texts: LongTexts | Literal["refuse"] = Field(
        "truncate",
        description="texts longer than max_length: cut them and set the header x-truncated-texts, read them whole in "
        "overlapping windows (mean of logits), or answer 422; the field `truncate` of a request takes precedence",
    )
    max_queue: int = Field(
        2048,
        ge=1,
        description="maximum waiting texts, where a long text counts once per window; beyond it, clients with more than "
        "their share get 429",
    )
    deadline_ms: int = Field(
        2_000, ge=1, description="requests not answered within this time get 504; the header x-deadline-ms can shorten it"
    )
    cache_entries: int = Field(0, ge=0, description="number of answers to cache by text; 0: no cache")


class NetworkSettings(Settings, heading="Network"):
    """Where the server listens, and how connections begin and end."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: all addresses")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0: any free port")
    uds: Path | None = Field(None, description="unix socket to listen on, in place of an address and port")
    root_path: str = Field(
        "", pattern=r"^(/[^/?#\s]+)*$", description="path under which a proxy serves this server, such as /classify"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names that the Host header may have, without port; default: any name, or on the loopback "
        "localhost and the address itself",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="addresses of proxies: their X-Forwarded-For names the client, and their connections are not limited "
        "per address; unix: the peer of --uds",
    )
    max_connections: int = Field(
        1000, ge=1, description="open connections; beyond it, the one that waits longest for its request is closed"
    )
    max_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="open connections of one address (IPv6: of one /64 network); default: a quarter of --max-connections, "
        "and any number on the loopback",
    )
    tls_certificate: Path | None = Field(None, description="TLS certificate chain, a PEM file; requires --tls-key")
    tls_key: Path | None = Field(None, description="TLS private key, a PEM file")
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1, description="maximum bytes of a request body; larger ones get 413")
    max_all_bodies_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1,
        description="maximum bytes of all request bodies that are arriving or being answered; beyond it, the connection with "
        "the largest unfinished body is closed",
    )
    body_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds for each of these: TLS handshake, head of a request, its body, the client reading the answer",
    )
    keep_alive_s: float = Field(75.0, gt=0, description="seconds before an idle connection is closed")
    drain_s: float = Field(
        0.5, ge=0, description="seconds after SIGTERM in which the server is not ready but still accepts requests"
    )
    shutdown_s: float = Field(20.0, gt=0, description="seconds after that for requests in flight to finish")


class AccessSettings(Settings, heading="Access"):
    """Who may call."""

    token_file: Path | None = Field(
        None, description="file of bearer tokens, one per line, added to POTSTILL_TOKENS (separated by commas)"
    )
    allow_anonymous: bool = Field(
        False, description="answer requests without a token even if other machines can connect (--host is not the loopback)"
    )
    admin_token_file: Path | None = Field(
        None,
        description="file of bearer tokens for the admin routes, added to POTSTILL_ADMIN_TOKENS; default: no admin routes",
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="origins whose web pages may call the server, such as https://example.org; default: none"
    )


class LogSettings(Settings, heading="Logging"):
    """What is logged and traced."""

    log_requests: bool = Field(False, description="log method, path, status, duration, client and request id of each request")
    log_format: Literal["text", "json"] = Field("text", description="with --log-requests, a line of text or a JSON object")
    log_texts: bool = Field(False, description="with --log-requests, also log the texts")
    telemetry: bool = Field(
        False,
        description="export OpenTelemetry traces and request durations, configured by OTEL_* variables (extra: telemetry)",
    )


class ServeSettings(LogSettings, AccessSettings, NetworkSettings, LimitSettings, TrustSettings, heading="Running"):
    """How the server listens, computes and stops; its limits hold for every model without limits of its own."""

    threads: int | None = Field(
        None, ge=1, description="batches computed in parallel, one thread each; default: the CPUs available to this process"
    )
    max_batch_tokens: int = Field(128, ge=8, description="maximum tokens per batch of several texts")
    batch_timeout_s: float = Field(
        10.0,
        gt=0,
        description="maximum seconds per batch; beyond it, its requests get 503, and a new thread replaces the one that hangs",
    )
    reload_timeout_s: float = Field(
        60.0, gt=0, description="maximum seconds per reload; beyond it, the old bundle stays in use"
    )
    fallback: Path | None = Field(
        None, description="larger bundle with an ONNX graph, asked when the served student is not sure (cascade)"
    )
    min_confidence: float | Literal["auto"] = Field(
        "auto", description="lowest confidence at which the answer of the student is used; auto: as set by `potstill cascade`"
    )

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; set both or neither")
        if "*" in self.cors_origins:
            raise ValueError("cors_origins must list each origin; '*' would allow every page")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect: a unix socket, or an address of the loopback."""
        return self.uds is not None or is_loopback(self.host)

    def limits_with(self, options: dict[str, str]) -> LimitSettings:
        """Return the limits of one model: these, with some replaced by its options."""
        if unknown := options.keys() - LimitSettings.model_fields.keys():
            raise SettingsError(
                f"a model has no limit {sorted(unknown)[0]!r}; choose from {', '.join(sorted(LimitSettings.model_fields))}"
            )
        return LimitSettings(**{**self.model_dump(include=set(LimitSettings.model_fields)), **options})


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def named_model(spelled: str) -> tuple[str, Path, dict[str, str]]:
    """Parse `name=path` or `name=path,limit=value,…` into name, folder and limits."""
    name, _, rest = spelled.partition("=")
    path, *options = rest.split(",")
    if not name or not path or "/" in name or any("=" not in option for option in options):
        raise SettingsError(f"--model must be NAME=FOLDER or NAME=FOLDER,LIMIT=VALUE, got {spelled!r}")
    return name, Path(path), dict(option.split("=", 1) for option in options)
