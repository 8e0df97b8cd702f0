"""What the tests share: a tiny task, and bundles that the real pipeline made from it in seconds, offline."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from timing import timing_lines
from tiny_task import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS, Outcome, tiny_texts, write_csv

from distill.bundle import Bundle
from distill.data import Dataset, Splits, load_splits
from distill.settings import DataSettings, DistillSettings
from distill.teacher_settings import TeacherSettings

# The same examples in every run, and no time limit on one of them: a busy machine must not fail a test.
hypothesis.settings.register_profile("potstill", derandomize=True, deadline=None)
hypothesis.settings.load_profile("potstill")

CHROMIUM = Path("/usr/bin/chromium")
# Without the last three its calls for updates are refused by a closed network, many at a time.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

# Before torch is loaded: its threads wait asleep. Spinning, as they do by default, they take each other's processor
# wherever something else runs too, and training the tiny models takes thirty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each worker has processors of its own: rows of one thread are bound to the last one, which all would share.
    _place, _workers = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[_place::_workers]) or os.sched_getaffinity(0))


_seconds: defaultdict[str, float] = defaultdict(float)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: a process that gets one of them last keeps the others waiting."""
    weight: defaultdict[Path, float] = defaultdict(float)
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            weight[item.path] += limit.args[0] if limit else 300
    items.sort(key=lambda item: -weight[item.path])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the setup, the call and the teardown of each test."""
    _seconds[report.nodeid] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long each folder of tests took, and the slowest tests, after a run that is not short."""
    if sum(_seconds.values()) > 10:
        terminalreporter.section("time by folder")
        for line in timing_lines(_seconds):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' soft targets and built-in texts in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV of 400 texts."""
    return write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", tiny_texts(400))


@pytest.fixture(scope="session")
def tiny_splits(tiny_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Return training, validation and test texts of the tiny task."""
    test = write_csv(tmp_path_factory.mktemp("data") / "test.csv", tiny_texts(200, seed=1))
    return load_splits(DataSettings(train=(str(tiny_csv),), test=str(test), validation_share=0.25))


@pytest.fixture(scope="session")
def tiny_test(tiny_splits: Splits) -> Dataset:
    """Return the test texts of the tiny task."""
    assert tiny_splits.test is not None
    return tiny_splits.test


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder with an untrained BERT of 4 layers and 64 dimensions, and a word tokenizer.

    64, because int8 leaves smaller products alone.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_model: Path, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a fine-tuned teacher's bundle, computed in fp32, as not every processor takes bf16; do not change it."""
    from distill.training.fine_tuning import fit_teacher

    settings = TeacherSettings(epochs=6, learning_rate=2e-3, max_length=32, batch_size=16, mixed_precision="no")
    out = tmp_path_factory.mktemp("bundles") / "teacher"
    return fit_teacher(str(tiny_model), train=tiny_splits.train, validation=tiny_splits.validation, out=out, settings=settings)


@pytest.fixture(scope="session")
def tiny_unexported(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a 2-layer student's bundle without graphs; do not change it."""
    from distill.training.distillation import fit_student

    settings = DistillSettings(epochs=4, learning_rate=2e-3, batch_size=16, num_layers=2, mixed_precision="no")
    out = tmp_path_factory.mktemp("bundles") / "unexported"
    return fit_student(tiny_teacher, train=tiny_splits.train, validation=tiny_splits.validation, out=out, settings=settings)


@pytest.fixture(scope="session")
def tiny_student(tiny_unexported: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a student's bundle with fp32 and int8 graphs; do not change it."""
    from export.pipeline import export_bundle

    copy = tmp_path_factory.mktemp("bundles") / "student"
    shutil.copytree(tiny_unexported.path, copy)
    return export_bundle(Bundle.open(copy), validation=tiny_splits.validation)


@pytest.fixture(scope="session")
def tiny_fallback(tiny_teacher: Bundle, tiny_splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny teacher with an fp32 graph; do not change it."""
    from export.pipeline import export_bundle
    from export.settings import ExportSettings

    copy = tmp_path_factory.mktemp("bundles") / "fallback"
    shutil.copytree(tiny_teacher.path, copy)
    return export_bundle(Bundle.open(copy), validation=tiny_splits.validation, settings=ExportSettings(precisions=("fp32",)))


@pytest.fixture(scope="module")
def timed_here() -> Iterator[None]:
    """Open what is timed in this process; tests of measuring start processes."""
    import numpy as np
    from here import opened_here

    from export.measure.turns import Fresh

    fresh = Fresh(0.5, 10**8, 10**8, 10**8, 10**8, np.zeros((1, 2), np.float32), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.measure.turns.Contender.start", opened_here)
        patch.setattr("export.measure.rows.fresh_process", lambda *_, **__: fresh)
        yield


@pytest.fixture(scope="module")
def short_fits(timed_here: None) -> Iterator[None]:
    """Let `fit` measure in short turns, in this process."""
    from export.settings import MIN_PROCESSES, BenchSettings

    short = BenchSettings(
        processes=MIN_PROCESSES,
        rounds=MIN_PROCESSES,
        texts_per_round=5,
        settle_s=0.05,
        window_s=0.01,
        throughput_texts=8,
        throughput_rounds=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.fitting.weighing.TIMING", short)
        patch.setattr("export.fitting.reporting.findings.FIRST_LOOK", short)
        yield


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Bundle], Bundle]:
    """Return a function that copies a bundle, so that a test may damage the copy."""

    def copy(bundle: Bundle) -> Bundle:
        folder = tmp_path / "copied"
        shutil.copytree(bundle.path, folder)
        return Bundle.open(folder)

    return copy


@pytest.fixture
def potstill(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs the command in this process: starting one that trains takes seconds."""
    from distill.cli.main import main

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exc:
            code = int(exc.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function from a size in KiB to an empty disk of that size; only root may mount one."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"

    def make(size_kib: int) -> Path:
        folder.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder))
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(make_disk: Callable[[int], Path]) -> Path:
    """Return an empty disk of 256 KiB."""
    return make_disk(256)


@pytest.fixture
def make_read_only(tmp_path: Path) -> Callable[[], None]:
    """Return a function after which nobody, root included, can write to the test's disk."""
    return lambda: _mount("-o", "remount,ro", str(tmp_path / "disk"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the machine's Chromium. Not of the whole session: while it runs, the main thread can start no event loop."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium here; `apt-get install chromium` brings it")
    with playwright.sync_playwright() as driver:
        profile = tmp_path_factory.mktemp("profile")
        context = driver.chromium.launch_persistent_context(profile, executable_path=str(CHROMIUM), args=FLAGS, headless=True)
        yield context
        context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """Return a script that checks a page with axe-core: what it resolves to lists each violation with its first element."""
    if not os.environ.get("POTSTILL_INTEROP"):
        pytest.skip("set POTSTILL_INTEROP=1 to install axe-core from npm and check pages with it")
    from benchmarks.harness.environments import node_folder

    source = (node_folder() / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
    listed = "violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`)"
    return f"async () => {{ {source}; const {{ violations }} = await axe.run(); return {listed}; }}"
