"""Answering from an ONNX graph: onnxruntime, tokenizers and numpy; never torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.batching import logits_in_order
from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.cpus import INT8_WITHOUT_SATURATION, available_cpus, instruction_set
from distill.errors import BundleError
from distill.extras import requires
from distill.labels import Logits, ProblemType
from distill.settings import Precision
from distill.tokenization import INPUT_NAMES, Batch, TextTokenizer

with requires("running a graph"):
    import onnxruntime as ort

logger = logging.getLogger(__name__)

# Padded tokens per batch: enough to keep the products busy, little enough that the activations stay in the cache.
MAX_BATCH_TOKENS = 2048
MAX_BATCH_TEXTS = 64
# ONNX Runtime's fused residual and norm is slower than the two ops it replaces: 2.0 ms a text against 1.5.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)


class OnnxClassifier:
    """A `Classifier` that runs one graph of a bundle. One instance may be shared by threads."""

    def __init__(
        self,
        graph: Path | bytes,
        *,
        tokenizer: TextTokenizer,
        labels: tuple[str, ...],
        problem_type: ProblemType,
        threads: int | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: A file, or the content of one.
            tokenizer: Texts to ids.
            labels: Label names, in the order of the logits.
            problem_type: How logits become probabilities.
            threads: Threads of one call; None takes what this process may really use.

        Raises:
            BundleError: The graph cannot be loaded, or takes or gives something else than ours do.
        """
        self._tokenizer = tokenizer
        self._labels = labels
        self._problem_type: ProblemType = problem_type
        ort.disable_telemetry_events()  # it would keep a database in the user's cache folder
        try:
            self._session = ort.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                _session_options(threads or available_cpus()),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(DISABLED_OPTIMIZERS),
            )
        except Exception as exc:  # the library raises a dozen classes with no common base but Exception
            name = "the graph" if isinstance(graph, bytes) else graph
            raise BundleError(f"{name} is not a graph that ONNX Runtime {ort.__version__} can load: {exc}") from exc
        _require_contract(self._session, labels)

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        *,
        precision: Precision | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> OnnxClassifier:
        """Open a bundle's graph.

        Args:
            bundle: A bundle or its folder.
            precision: Which graph; None takes int8 where there is one.
            threads: Threads of one call; None takes what this process may really use.
            verify: Check the sha256 of every file first, when a folder is given.

        Raises:
            BundleError: It is not a whole bundle, or has no such graph.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        precision = precision or opened.best_precision()
        if precision == "int8":
            _warn_if_int8_can_saturate(opened)
        return cls(
            opened.graph(precision),
            tokenizer=opened.tokenizer(),
            labels=opened.labels,
            problem_type=opened.manifest.problem_type,
            threads=threads,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self._labels

    @property
    def problem_type(self) -> ProblemType:
        """How logits become probabilities."""
        return self._problem_type

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i].

        Raises:
            DatasetError: A text is not a string, or cannot be encoded.
            BundleError: The graph cannot take these ids, or gave a logit that is not a number.
        """
        return logits_in_order(
            self._tokenizer.encode(texts),
            tokenizer=self._tokenizer,
            run=self._run,
            num_labels=len(self._labels),
            max_tokens=MAX_BATCH_TOKENS,
            max_texts=MAX_BATCH_TEXTS,
        )

    def _run(self, batch: Batch) -> Logits:
        try:
            logits: Logits = self._session.run(None, batch._asdict())[0]
        except Exception as exc:  # as above
            raise BundleError(f"the graph cannot answer; is the tokenizer the one it was made with? {exc}") from exc
        if not np.isfinite(logits).all():
            raise BundleError("the graph gave a logit that is not a number; export the bundle again")
        return logits


def _require_contract(session: ort.InferenceSession, labels: tuple[str, ...]) -> None:
    taken = [value.name for value in session.get_inputs()]
    if sorted(taken) != sorted(INPUT_NAMES):
        raise BundleError(f"the graph takes {taken}, wanted {list(INPUT_NAMES)}; write it with `potstill export`")
    columns = session.get_outputs()[0].shape[-1]
    if isinstance(columns, int) and columns != len(labels):
        # numpy would spread one column over all labels
        raise BundleError(f"the graph gives {columns} logits a text, but there are {len(labels)} labels: {list(labels)}")


def _warn_if_int8_can_saturate(bundle: Bundle) -> None:
    """Say when int8 was proven on a processor that adds at 32 bits and this one does at 16: its figures may not hold here."""
    proven, here = bundle.manifest.instruction_set, instruction_set()
    if proven in INT8_WITHOUT_SATURATION and here not in INT8_WITHOUT_SATURATION:
        logger.warning(
            "int8 of %s was proven with %s; this processor has %s, where int8 products can saturate: "
            "check it here with `potstill eval`, or run fp32",
            bundle.path,
            proven,
            here,
        )


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # The arena keeps the largest block of every shape it ever saw (microsoft/onnxruntime #11627): memory would only grow.
    options.enable_cpu_mem_arena = False
    # Activations of padded rows can be denormal, and denormal arithmetic is a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options
