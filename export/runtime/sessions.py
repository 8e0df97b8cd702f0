"""Answering from an ONNX graph: onnxruntime, tokenizers and numpy; never torch.

Many texts are sorted by length and cut into small batches, which several threads run at once; a single batch is spread
over the threads instead. Which of the two happens never changes an answer of a graph with fixed scales.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from distill.batching import OrderedMap, logits_in_order
from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.errors import BundleError, SettingsError, requires
from distill.labels import Logits, ProblemType
from distill.machine import INT8_WITHOUT_SATURATION, available_cpus, instruction_set
from distill.settings import Precision
from distill.tokenization import INPUT_NAMES, Batch, TextTokenizer

with requires("running a graph"):
    import onnxruntime as ort

logger = logging.getLogger(__name__)

MICROSOFT = "com.microsoft"
"""Domain of the ops that are ONNX Runtime's own."""

# Padded tokens per batch. Activations of 384 tokens stay in a core's cache; 2,048 took 1.5 times the processor time.
MAX_BATCH_TOKENS = 384
MAX_BATCH_TEXTS = 32
# What a batch costs beside its padded tokens: a 2-layer student took 0.49 ms for 24 tokens and 1.17 ms for 4 x 24.
OVERHEAD_TOKENS = 28
FEW_LOGITS = 32
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
            SettingsError: `threads` is less than 1.
            BundleError: The graph cannot be loaded, or takes or gives something else than ours do.
        """
        self._tokenizer = tokenizer
        self._labels = labels
        self._problem_type: ProblemType = problem_type
        self._threads = available_cpus() if threads is None else threads
        if self._threads < 1:
            raise SettingsError(f"threads must be at least 1, got {threads}")
        self._graph = _Graph(graph)
        self._session = self._graph.load(threads=self._threads)
        _require_contract(self._session, labels)
        self._crew: _Crew | None = None
        self._crew_lock = threading.Lock()

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
            _require_int8_is_safe_here(opened)
        return cls.of_graph(opened.graph(precision), opened, threads=threads)

    @classmethod
    def of_graph(cls, graph: Path | bytes, bundle: Bundle, *, threads: int | None = None) -> OnnxClassifier:
        """Run a graph, a file or its bytes, with the tokenizer and the labels of a bundle; see `open` for `threads`."""
        return cls(
            graph,
            tokenizer=bundle.tokenizer(),
            labels=bundle.labels,
            problem_type=bundle.manifest.problem_type,
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

    @property
    def max_length(self) -> int:
        """Tokens that are read of a text."""
        return self._tokenizer.max_length

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i].

        Raises:
            DatasetError: A text is not a string, or cannot be encoded.
            BundleError: The graph cannot take these ids, or gave a logit that is not a number.
        """
        return self.predict_encoded(self._tokenizer.encode(texts))

    def digest(self) -> str:
        """Return the sha256 of what decides the logits: the graph, the tokenizer and the version of ONNX Runtime."""
        return hashlib.sha256(f"{self._graph.digest()} {self._tokenizer.digest()} {ort.__version__}".encode()).hexdigest()

    def encode(self, texts: Sequence[TextInput]) -> list[NDArray[np.int64]]:
        """Return the token ids of each text, at most `max_length` long; raises what `predict_logits` does."""
        return self._tokenizer.encode(texts)

    def encode_windows(self, text: str) -> list[NDArray[np.int64]]:
        """Return the token ids of all of a text, in overlapping windows of at most `max_length`."""
        return self._tokenizer.windows(text)

    def is_cut(self, text: TextInput) -> bool:
        """Tell whether this text loses tokens to `max_length`."""
        return self._tokenizer.count_truncated([text]) > 0

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        """Return the logits of texts that `encode` made ids of."""
        if len(rows) == 1:  # nothing to sort: planning batches took a twentieth of one text's half millisecond
            return _answer(self._session, self._tokenizer.pad(rows))
        session, run_all = self._session, cast(OrderedMap, map)
        if self._threads > 1 and (len(rows) > MAX_BATCH_TEXTS or sum(map(len, rows)) > MAX_BATCH_TOKENS):
            crew = self._crew_for_many()
            session, run_all = crew.session, crew.pool.map
        return logits_in_order(
            rows,
            tokenizer=self._tokenizer,
            run=lambda batch: _answer(session, batch),
            num_labels=len(self._labels),
            max_tokens=MAX_BATCH_TOKENS,
            max_texts=MAX_BATCH_TEXTS,
            overhead_tokens=OVERHEAD_TOKENS,
            run_all=run_all,
        )

    def predict_in_one_batch(self, texts: Sequence[TextInput]) -> Logits:
        """Return the same logits computed in one padded batch of all the texts, as a server without this runtime would."""
        if not texts:
            return np.empty((0, len(self._labels)), dtype=np.float32)
        forgetting = ort.RunOptions()  # a batch of any size, whose memory the arena must not keep
        forgetting.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return _answer(self._session, self._tokenizer.pad(self._tokenizer.encode(texts)), forgetting)

    def _crew_for_many(self) -> _Crew:
        """Return the threads for many batches; made when first needed, for a server of single texts never does."""
        with self._crew_lock:
            if self._crew is None:
                self._crew = _Crew(self._graph.load(threads=1), ThreadPoolExecutor(self._threads, "potstill"))
            return self._crew


@dataclass(frozen=True)
class _Crew:
    """A session of one thread a call, and the threads that share it, each with a batch of its own.

    Splitting each product of a small batch over threads, as one session would, costs a tenth more processor time.
    """

    session: ort.InferenceSession
    pool: ThreadPoolExecutor


class _Graph:
    """A graph that sessions are made of: a file, or the content of one."""

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self._seen = self._state()

    def load(self, *, threads: int) -> ort.InferenceSession:
        """Return a session, of the same content as the one before it."""
        if self._state() != self._seen:
            raise BundleError(f"{self._source!s} was replaced after it was opened; open the bundle again")
        ort.disable_telemetry_events()  # it would keep a database in the user's cache folder
        try:
            return ort.InferenceSession(
                self._source if isinstance(self._source, bytes) else str(self._source),
                _session_options(threads),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(DISABLED_OPTIMIZERS),
            )
        except Exception as exc:  # the library raises a dozen classes with no common base but Exception
            name = "the graph" if isinstance(self._source, bytes) else self._source
            raise BundleError(f"{name} is not a graph that ONNX Runtime {ort.__version__} can load: {exc}") from exc

    def digest(self) -> str:
        """Return the sha256 of the graph."""
        return hashlib.sha256(self._source if isinstance(self._source, bytes) else self._source.read_bytes()).hexdigest()

    def _state(self) -> tuple[int, ...] | None:
        try:
            stat = None if isinstance(self._source, bytes) else self._source.stat()
        except OSError:
            return None
        return stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _answer(session: ort.InferenceSession, batch: Batch, options: ort.RunOptions | None = None) -> Logits:
    try:
        logits: Logits = session.run(None, batch._asdict(), options)[0]
    except Exception as exc:  # as above
        raise BundleError(f"the graph cannot answer; is the tokenizer the one it was made with? {exc}") from exc
    if not _all_finite(logits):
        raise BundleError("the graph gave a logit that is not a number; export the bundle again")
    return logits


def _all_finite(logits: Logits) -> bool:
    # Behind a graph's weights numpy's own code is no longer in the cache: 12 us for two numbers, where this takes 2.
    return all(map(math.isfinite, logits.ravel().tolist())) if logits.size <= FEW_LOGITS else bool(np.isfinite(logits).all())


def _require_contract(session: ort.InferenceSession, labels: tuple[str, ...]) -> None:
    taken = [value.name for value in session.get_inputs()]
    if sorted(taken) != sorted(INPUT_NAMES):
        raise BundleError(f"the graph takes {taken}, wanted {list(INPUT_NAMES)}; write it with `potstill export`")
    columns = session.get_outputs()[0].shape[-1]
    if isinstance(columns, int) and columns != len(labels):
        # numpy would spread one column over all labels
        raise BundleError(f"the graph gives {columns} logits a text, but there are {len(labels)} labels: {list(labels)}")


def _require_int8_is_safe_here(bundle: Bundle) -> None:
    """Refuse 8-bit weights where products add up at 16 bits; warn where the manifest does not say how many bits there are."""
    target, proven, here = bundle.manifest.target, bundle.manifest.instruction_set, instruction_set()
    if target == "portable" or here in INT8_WITHOUT_SATURATION:
        return
    if target == "vnni":
        raise BundleError(
            f"int8 of {bundle.path} is for processors with VNNI; this one has {here}, where its products can saturate: "
            "run fp32, or export it again with --target portable"
        )
    if proven in INT8_WITHOUT_SATURATION:
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
    # The graph is a chain: there are no two ops that could run at once.
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads sleep: spinning, they take the processor from whoever else could use it (a text's p90 went from 1.5
    # to 10 ms beside a second session), and 2,000 texts took 1.7 times the processor time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # Without an arena every run takes its activations from the system and faults their pages in anew, a twentieth of a
    # text's time. It keeps what the largest batch took (microsoft/onnxruntime #11627); ours are all small, so it stays so.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False  # one would be kept for every shape
    # Activations of padded rows can be denormal, and denormal arithmetic is a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options
