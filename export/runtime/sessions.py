"""Answering from an ONNX graph: onnxruntime, tokenizers and numpy; never torch.

Many texts are sorted by length and divided into small batches, which several threads run in parallel; a single batch is spread
over the threads instead. With fixed scales both give the same answers.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.batching import logits_in_order
from distill.bundle import Bundle
from distill.classifier import TextInput
from distill.errors import BundleError, SettingsError, requires
from distill.labels import Logits, ProblemType
from distill.machine import INT8_WITHOUT_SATURATION, available_cpus, instruction_set
from distill.settings import Precision
from distill.tokenization import Batch, TextTokenizer
from export.runtime.graph_limits import require_runnable

with requires("running a graph"):
    import onnxruntime as ort

logger = logging.getLogger(__name__)

MapBatches = Callable[..., Iterable[Logits]]
"""`map`, or that of an executor: a function applied to each batch, with the results in order."""

Graph = bytes | Callable[[], bytes]
"""The content of a graph, or a function that reads it from a bundle and checks it each time; then it is not kept in memory."""

# Padded tokens per batch. The activations of 384 tokens stay in the cache of a core; 2,048 took 1.5 times the processor time.
MAX_BATCH_TOKENS = 384
MAX_BATCH_TEXTS = 32
# Fixed cost of a batch, in padded tokens: a 2-layer student took 0.49 ms for 24 tokens and 1.17 ms for 4 x 24.
OVERHEAD_TOKENS = 28
FEW_LOGITS = 32
# The fused residual and norm of ONNX Runtime is slower than the two ops it replaces: 2.0 ms per text against 1.5.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)


class OnnxClassifier:
    """A `Classifier` that runs one graph of a bundle. Threads may share an instance."""

    def __init__(
        self,
        graph: Graph,
        *,
        tokenizer: TextTokenizer,
        labels: tuple[str, ...],
        problem_type: ProblemType,
        name: str = "the graph",
        threads: int | None = None,
    ) -> None:
        """Load a graph.

        Args:
            graph: The content, or how to read it.
            tokenizer: Texts to ids.
            labels: Label names, in the order of the logits.
            problem_type: How logits become probabilities.
            name: What errors call it.
            threads: Threads per call; None: all processors that this process may use.

        Raises:
            SettingsError: `threads` is less than 1.
            BundleError: The graph has an op or a part that no graph of `potstill export` has, cannot be loaded, or has other
                inputs or outputs than expected.
        """
        self.tokenizer = tokenizer
        self.labels = labels
        self.problem_type: ProblemType = problem_type
        self._threads = available_cpus() if threads is None else threads
        if self._threads < 1:
            raise SettingsError(f"threads must be at least 1, got {threads}")
        self._graph, self._name = graph, name
        self._session = _load(graph, name=name, threads=self._threads)
        _require_contract(self._session, labels, tokenizer.input_names)
        self._crew: tuple[ort.InferenceSession, MapBatches] | None = None
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
            precision: Which graph; None: int8 where there is one, else fp32.
            threads: Threads per call; None: all processors that this process may use.
            verify: Check the sha256 of every file first, when a folder is given; those of graph and tokenizer always are.

        Raises:
            BundleError: It is not a complete bundle, or has no such graph.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        precision = precision or opened.best_precision()
        if precision == "int8":
            _require_int8_is_safe_here(opened)
        name = opened.graph(precision).name
        return cls.of_graph(partial(opened.read_graph, precision), opened, name=name, threads=threads)

    @classmethod
    def of_graph(cls, graph: Graph, bundle: Bundle, *, name: str = "the graph", threads: int | None = None) -> OnnxClassifier:
        """Run a graph with the tokenizer and the labels of a bundle; see `open` for `threads`, the class for `name`."""
        return cls(
            graph,
            tokenizer=bundle.tokenizer(),
            labels=bundle.labels,
            problem_type=bundle.manifest.problem_type,
            name=name,
            threads=threads,
        )

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        """Return logits, shape (len(texts), len(labels)), float32; row i belongs to texts[i].

        Raises:
            DatasetError: A text is not a string, or cannot be encoded.
            BundleError: The graph does not accept these ids, or returned a logit that is not a number.
        """
        return self.predict_encoded(self.tokenizer.encode(texts))

    def digest(self) -> str:
        """Return the sha256 of what decides the logits: the graph, the tokenizer and the version of ONNX Runtime."""
        graph = hashlib.sha256(_content_of(self._graph)).hexdigest()
        return hashlib.sha256(f"{graph} {self.tokenizer.digest()} {ort.__version__}".encode()).hexdigest()

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        """Return the logits of token ids from `tokenizer.encode`."""
        if len(rows) == 1:  # nothing to sort: planning batches took a twentieth of the half millisecond of one text
            return _answer(self._session, self.tokenizer.pad(rows))
        session = self._session
        run_all: MapBatches = map
        if self._threads > 1 and (len(rows) > MAX_BATCH_TEXTS or sum(map(len, rows)) > MAX_BATCH_TOKENS):
            session, run_all = self._crew_for_many()
        return logits_in_order(
            rows,
            run=lambda batch: _answer(session, self.tokenizer.pad(batch)),
            num_labels=len(self.labels),
            max_tokens=MAX_BATCH_TOKENS,
            max_texts=MAX_BATCH_TEXTS,
            overhead_tokens=OVERHEAD_TOKENS,
            run_all=run_all,
        )

    def predict_in_one_batch(self, texts: Sequence[TextInput]) -> Logits:
        """Return the logits of all texts computed in one padded batch, as a runtime without our batching would."""
        if not texts:
            return np.empty((0, len(self.labels)), dtype=np.float32)
        forgetting = ort.RunOptions()  # a batch of any size: the arena must not keep its memory
        forgetting.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return _answer(self._session, self.tokenizer.pad(self.tokenizer.encode(texts)), forgetting)

    def _crew_for_many(self) -> tuple[ort.InferenceSession, MapBatches]:
        """Return a session with one thread per call, and the `map` of threads that share it, each with its own batch.

        Splitting each linear layer of a small batch over threads, as one session would, costs a tenth more processor time.
        Created on first use, because a server of single texts never needs them.
        """
        with self._crew_lock:
            if self._crew is None:
                self._crew = _load(self._graph, name=self._name, threads=1), ThreadPoolExecutor(self._threads, "potstill").map
            return self._crew


def _content_of(graph: Graph) -> bytes:
    return graph if isinstance(graph, bytes) else graph()


def _load(graph: Graph, *, name: str, threads: int) -> ort.InferenceSession:
    ort.disable_telemetry_events()  # it would write a database to the user's cache folder
    content = _content_of(graph)
    try:
        require_runnable(content)
    except BundleError as exc:
        raise BundleError(f"{name} is not a graph that potstill runs: {exc}; make it with `potstill export`") from exc
    try:
        session = ort.InferenceSession(
            content,
            _session_options(threads),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )
    except Exception as exc:  # the library raises a dozen classes whose only common base is Exception
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {name}: {exc}") from exc
    # The session would keep the whole file beside the weights, to load it again when its providers change; ours never do.
    session._model_bytes = None
    return session


def _answer(session: ort.InferenceSession, batch: Batch, options: ort.RunOptions | None = None) -> Logits:
    try:
        logits: Logits = session.run(None, batch.inputs(), options)[0]
    except Exception as exc:  # as above
        raise BundleError(f"the graph cannot answer; is the tokenizer the one it was made with? {exc}") from exc
    # After a run, the weights have displaced numpy's code from the cache: it takes 12 us for two values, `math` takes 2.
    finite = map(math.isfinite, logits.ravel().tolist()) if logits.size <= FEW_LOGITS else [np.isfinite(logits).all()]
    if not all(finite):
        raise BundleError("the graph returned a logit that is not a number; export the bundle again")
    return logits


def _require_contract(session: ort.InferenceSession, labels: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    taken = [value.name for value in session.get_inputs()]
    if sorted(taken) != sorted(wanted):
        raise BundleError(f"the graph has inputs {taken}, expected {list(wanted)}; write it with `potstill export`")
    columns = session.get_outputs()[0].shape[-1]
    if isinstance(columns, int) and columns != len(labels):
        # numpy would broadcast one column over all labels
        raise BundleError(f"the graph returns {columns} logits per text, but there are {len(labels)} labels: {list(labels)}")


def _require_int8_is_safe_here(bundle: Bundle) -> None:
    """Refuse 8-bit weights on processors that sum in 16 bits; warn where the manifest does not name the target."""
    target, proven, here = bundle.manifest.target, bundle.manifest.instruction_set, instruction_set()
    if target == "portable" or here in INT8_WITHOUT_SATURATION:
        return
    if target == "vnni":
        raise BundleError(
            f"int8 of {bundle.path} is for processors with VNNI; this one has {here}, where its sums can saturate: "
            "run fp32, or export it again with --target portable"
        )
    if proven in INT8_WITHOUT_SATURATION:
        logger.warning(
            "int8 of %s was verified with %s; this processor has %s, where int8 sums can saturate: "
            "check it here with `potstill eval`, or run fp32",
            bundle.path,
            proven,
            here,
        )


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # The graph is a chain: no two ops could run in parallel.
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads sleep. Spinning threads take the processor from others (the p90 of a text went from 1.5 to 10 ms beside a
    # second session), and 2,000 texts took 1.7 times the processor time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # ONNX Runtime has a second format, of which nothing is checked here; the bytes must not decide which one is read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Without an arena every run allocates its activations from the system and causes page faults, a twentieth of the time of a
    # text. An arena keeps the memory of the largest batch (microsoft/onnxruntime #11627); ours are all small.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False  # it would keep one pattern per shape
    # Activations of padded rows can be denormal, and denormal arithmetic is a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options
