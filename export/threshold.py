"""Choose the threshold of a cascade on validation texts and measure the cascade on them. No torch."""

from __future__ import annotations

from typing import Any

from distill.bundle import Bundle
from distill.classifier import Classifier, agreement
from distill.data import Dataset
from distill.evaluation.metrics import evaluate
from distill.labels import Logits
from export.runtime.cascade import Cascade, choose_threshold, graph_digests
from export.runtime.sessions import OnnxClassifier


def set_cascade(
    student: Bundle,
    fallback: Bundle | Classifier,
    *,
    validation: Dataset,
    wanted_agreement: float,
    confidence: float | None = None,
) -> list[dict[str, Any]]:
    """Choose the threshold, save it in the student's manifest, and return a row for student, fallback and cascade.

    Args:
        student: A bundle with a graph.
        fallback: A larger classifier with the same labels: a bundle with a graph, or any, such as recorded answers.
        validation: Texts that neither was trained on.
        wanted_agreement: Share (0-1) of the texts that must get the same labels from the cascade and the fallback.
        confidence: Probability with which that must hold for new texts; None: it holds for these. See `choose_threshold`.

    Raises:
        BundleError: A bundle has no graph.
        SettingsError: The two differ in labels or task, or the share is out of range.
        DatasetError: There are no texts.
        GateError: No threshold keeps the agreement with that confidence.
    """
    opened = OnnxClassifier.open(fallback) if isinstance(fallback, Bundle) else fallback
    members: tuple[Classifier, Classifier] = (OnnxClassifier.open(student), opened)
    trial = Cascade(*members, min_confidence=0)  # refuses two that do not belong together before any text is answered
    logits = [member.predict_logits(validation.texts) for member in members]
    threshold = choose_threshold(
        student_logits=logits[0],
        fallback_logits=logits[1],
        labels=validation.label_ids,
        problem_type=trial.problem_type,
        wanted_agreement=wanted_agreement,
        graphs=graph_digests(student, fallback),
        confidence=confidence,
    )
    student.adding({}, cascade=threshold)
    cascade = Cascade(*members, min_confidence=threshold.min_confidence, temperature=threshold.temperature)
    rows = (
        ("student", logits[0], 1.0),
        ("fallback", logits[1], 0.0),
        ("cascade", cascade.predict_logits(validation.texts), threshold.student_share),
    )
    return [_row(name, found, logits[1], members[0], validation, student_share=share) for name, found, share in rows]


def _row(
    name: str, logits: Logits, of_fallback: Logits, classifier: Classifier, data: Dataset, *, student_share: float
) -> dict[str, Any]:
    quality = evaluate(
        labels=data.label_ids, logits=logits, label_names=classifier.labels, problem_type=classifier.problem_type
    )
    return {
        "name": name,
        "macro_f1": quality.macro_f1,
        "macro_f1_interval": quality.macro_f1_interval,
        "expected_calibration_error": quality.expected_calibration_error,
        "agreement_with_fallback": agreement(logits, of_fallback, classifier.problem_type),
        "student_share": student_share,
        "num_texts": quality.num_texts,
    }
