"""The content of `manifest.json`: what a bundle is, where it came from, and the size and sha256 of every file.

It is written as canonical JSON with its own sha256, so that any change after that is noticed. Reads and writes no files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.errors import BundleError
from distill.labels import ProblemType
from distill.settings import Precision
from distill.tokenization import Pairs

SCHEMA: Final = 2
"""Version of the format. A new key needs a new version, because versions of potstill reject keys they do not know.

Schema 1 had fewer keys at first; each later one has a default here, so its manifests are read as they are.
"""

Role = Literal["teacher", "student"]

MAX_LENGTH = 2**17
"""Tokens per text that a manifest may declare; the longest encoders read a fraction of it."""
MAX_TOKEN_ID = 2**30 - 1  # the bit above it marks the second text of a pair

# A plain name, so that a manifest cannot point outside its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FileEntry(_Part):
    """A file of the bundle."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Link(_Part):
    """An earlier model in a transfer-learning chain: it was fine-tuned on another task, and training continued from it."""

    weights_sha256: str
    labels: tuple[str, ...]
    train_fingerprint: str | None
    seed: int | None


class Lineage(_Part):
    """The origin of a bundle, in digests and names; it has no paths or user names.

    Attributes:
        base_model: Name of the pretrained model.
        chain: Models on other tasks that the weights were trained from, oldest first.
        adapted_fingerprint: Digest of the unlabelled texts of the domain adaptation.
        teacher_sha256: Digest of the weights of the first teacher; if that is not a bundle, its own digest or name.
        ensemble: Digests or names of all teachers, if there are several.
        train_fingerprint: Digest of the training texts and labels; None, as the next two, if the classifier was adopted.
        validation_fingerprint: Digest of the validation texts and labels.
        unlabeled_fingerprint: Digest of the unlabelled texts.
    """

    base_model: str
    chain: tuple[Link, ...] = ()
    adapted_fingerprint: str | None = None
    teacher_sha256: str | None = None
    ensemble: tuple[str, ...] = ()
    train_fingerprint: str | None = None
    validation_fingerprint: str | None = None
    unlabeled_fingerprint: str | None = None
    seed: int | None = None


class CascadeEntry(_Part):
    """The confidence threshold of a student with a fallback, as found by `potstill cascade`.

    Attributes:
        student_graph_sha256: The threshold is valid only for this graph and that of the fallback.
        temperature: The student's logits are divided by it.
        min_confidence: The student answers texts with at least this probability; the fallback answers the others.
        agreement: Share (0-1) of validation texts with the same labels from the cascade and the fallback.
        student_share: Share (0-1) of validation texts that the student answered.
        agreement_bound: With `confidence`, the true agreement is at least that; None if no confidence was asked for.
        confidence: Probability (0-1) with which the bound holds, over drawings of the validation texts.
    """

    student_graph_sha256: str
    fallback_graph_sha256: str
    temperature: float = Field(gt=0)
    min_confidence: float = Field(ge=0)
    agreement: float = Field(ge=0, le=1)
    student_share: float = Field(ge=0, le=1)
    num_texts: int = Field(ge=1)
    agreement_bound: float | None = Field(None, ge=0, le=1)
    confidence: float | None = Field(None, gt=0, lt=1)


class Manifest(_Part):
    """The content of `manifest.json`. Unknown keys are rejected, because this version could not check them.

    Attributes:
        schema_version: Version of the format that the manifest was read from; it is always written in the present one.
        max_length: Maximum tokens per text.
        precisions: Precisions of the ONNX graphs.
        opset: ONNX opset of the graphs.
        instruction_set: Instruction set of the processor on which the int8 graph was verified.
        target: Processors that the int8 graph is made for.
        files: Size and sha256 of each file, except the manifest.
        lineage: Origin of the weights.
        calibration_temperature: Temperature by which the logits were divided to calibrate the probabilities.
        settings: Settings of each stage.
        quality: Metrics of each precision.
        history: Metrics of each epoch.
        cascade: Confidence threshold of this student with a fallback.
    """

    schema_version: int = Field(SCHEMA, alias="schema")
    role: Role
    labels: tuple[str, ...] = Field(min_length=1)
    problem_type: ProblemType
    max_length: int = Field(ge=4, le=MAX_LENGTH)
    pad_token_id: int = Field(ge=0, le=MAX_TOKEN_ID)
    pairs: Pairs | None = None
    num_parameters: int = Field(ge=0)
    precisions: tuple[Precision, ...] = ()
    opset: int | None = None
    instruction_set: str | None = None
    target: Literal["portable", "vnni"] | None = None
    files: dict[FileName, FileEntry] = Field(default_factory=dict)
    lineage: Lineage
    calibration_temperature: float | None = Field(None, gt=0)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = Field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()
    cascade: CascadeEntry | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def is_static(self) -> bool:
        """Whether it is a static student: token vectors and a small head instead of encoder layers."""
        return self.settings.get(self.role, {}).get("kind") == "static"

    @property
    def training_s(self) -> float:
        """Seconds of all epochs."""
        return sum(epoch.get("seconds", 0.0) for epoch in self.history)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of this manifest, including its own sha256."""
        return _sealed(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, content: bytes, *, source: Path) -> Self:
        """Parse a manifest; raise `BundleError` if any byte was changed after it was written."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise BundleError(f"{source} is not JSON ({exc}); the bundle is damaged: make or copy it again") from exc
        if not isinstance(values, dict):
            raise BundleError(f"{source} is a JSON {type(values).__name__}, expected an object; the bundle is damaged")
        schema = values.get("schema")
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise BundleError(
                f"{source} has schema {schema!r}, this version of potstill reads schemas 1 to {SCHEMA}; "
                "install the version that wrote it, or make the bundle again"
            )
        values.pop("sha256", None)
        # Check the values as written, without defaults of fields that this version added.
        if not _is_sealed(values, content):
            raise BundleError(
                f"{source} does not match its own sha256, so it was changed after it was written: make or copy the bundle again"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise BundleError(
                f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}; the bundle is damaged: make or copy it again"
            ) from exc


def _sealed(values: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of these values and of their sha256."""
    return _canonical_json({**values, "sha256": hashlib.sha256(_canonical_json(values)).hexdigest()})


def _is_sealed(values: Mapping[str, Any], content: bytes) -> bool:
    try:
        return _sealed(values) == content
    except ValueError:  # NaN or a lone surrogate, which potstill never writes
        return False


def _canonical_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
