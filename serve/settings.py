"""The settings of the server: its limits, who may call it, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from distill.errors import SettingsError
from distill.settings import Precision, Settings


class LimitSettings(Settings):
    """What one model accepts."""

    precision: Precision | None = Field(None, description="which graph; without it int8 where there is one")
    max_texts: int = Field(1024, ge=1, description="texts of one request")
    max_text_chars: int = Field(100_000, ge=1, description="characters of one text")
    long_texts: Literal["truncate", "refuse"] = Field(
        "truncate",
        description="a text past the bundle's max_length is cut, and the header x-truncated-texts says so; or refused "
        "with 422. A request that says `truncate` itself decides",
    )
    max_queue: int = Field(2048, ge=1, description="texts that may wait; past them requests get 429")
    deadline_ms: int = Field(
        2_000, ge=1, description="a request without an answer by then gets 504; x-deadline-ms may shorten it"
    )
    cache_entries: int = Field(0, ge=0, description="answers remembered by the text's content; 0 remembers none")


class ServeSettings(LimitSettings):
    """How the server listens, works and ends; its limits hold for every model that has none of its own."""

    fallback: Path | None = Field(
        None, description="a larger bundle with a graph, asked where the served student is unsure: a cascade"
    )
    min_confidence: float | Literal["auto"] = Field(
        "auto", description="confidence from which the student's answer stands; auto: as `potstill cascade` found it"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 listens on all")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    threads: int | None = Field(
        None, ge=1, description="batches computed at once, one thread each; without it what this process may really use"
    )
    max_batch_tokens: int = Field(
        128, ge=8, description="tokens, estimated from characters, of the texts joined into one batch"
    )
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1, description="bytes of one request's body; past them 413, while reading")
    body_timeout_s: float = Field(10.0, gt=0, description="seconds a request's head, and then its body, may take to arrive")
    keep_alive_s: float = Field(75.0, gt=0, description="seconds an idle connection is kept")
    drain_s: float = Field(
        0.5, ge=0, description="after SIGTERM: seconds in which readiness is false and requests are still taken"
    )
    shutdown_s: float = Field(20.0, gt=0, description="after that: seconds that requests in flight have to finish")
    token_file: Path | None = Field(
        None, description="file of bearer tokens, one a line; POTSTILL_TOKENS (separated by commas) adds to it"
    )
    admin_token_file: Path | None = Field(
        None,
        description="file of the admin routes' own tokens (or POTSTILL_ADMIN_TOKENS); without one there are no admin routes",
    )
    cors_origins: tuple[str, ...] = Field((), description="origins whose pages may call; none by default")
    tls_certificate: Path | None = Field(None, description="certificate chain, PEM; given with --tls-key")
    tls_key: Path | None = Field(None, description="private key, PEM")
    log_requests: bool = Field(False, description="log method, path, status, time and request id of each request")
    log_texts: bool = Field(False, description="with it, log the texts of requests too")
    telemetry: bool = Field(False, description="OpenTelemetry traces (extra `telemetry`); OTEL_* variables say where to")

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; give both or none")
        if "*" in self.cors_origins:
            raise ValueError("cors_origins names origins one by one; '*' would let every page call")
        return self

    def limits_with(self, options: dict[str, str]) -> LimitSettings:
        """Return the limits of one model: these, with some replaced."""
        unknown = options.keys() - LimitSettings.model_fields.keys()
        if unknown:
            raise SettingsError(
                f"a model has no limit {sorted(unknown)[0]!r}; choose from {', '.join(sorted(LimitSettings.model_fields))}"
            )
        ours = {name: getattr(self, name) for name in LimitSettings.model_fields}
        return LimitSettings(**{**ours, **options})


def named_model(spelled: str) -> tuple[str, Path, dict[str, str]]:
    """Read `name=path` or `name=path,limit=value,…` into name, folder and limits."""
    name, _, rest = spelled.partition("=")
    path, *options = rest.split(",")
    if not name or not path or "/" in name or any("=" not in option for option in options):
        raise SettingsError(f"--model is {spelled!r}, wanted NAME=FOLDER or NAME=FOLDER,LIMIT=VALUE")
    return name, Path(path), dict(option.split("=", 1) for option in options)
