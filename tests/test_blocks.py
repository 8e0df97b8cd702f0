"""Every code block of every page is run, or parsed by the program that it is for; none is left out."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import msgspec
import pytest
from blocks import PAGES, ROOT, Block, blocks_of, checked, shell_lines
from cyclopts import CycloptsError
from hugging_face import save_trained
from tiny_task import tiny_texts, write_csv

from distill.bundle import Bundle

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_ELSEWHERE = ("README.md", "docs/start/steps.md", "docs/start/your-classifier.md")  # by test_readme
TRAINING = {"fit", "fit_student", "fit_teacher", "fit_by_recipe", "run_trials", "select", "DistilledClassifier"}


def trains(block: Block) -> bool:
    """Whether it calls what takes minutes."""
    return bool({node.id for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Name)} & TRAINING)


RUN_HERE = [
    block
    for block in BLOCKS
    if block.language == "python" and not block.why_not_run and block.page not in RUN_ELSEWHERE and not trains(block)
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_right(block: Block) -> None:
    assert checked(block) == ("syntax" if block.why_not_run else "parsed")


@pytest.fixture(scope="module")
def workplace(tiny_student: Bundle, tiny_teacher: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the examples open: bundles, a Hugging Face classifier, and tables of texts."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("student", "classifier", "reviews/student", "demo/student"):
        shutil.copytree(tiny_student.path, folder / name)
    for name in ("teacher", "reviews/teacher"):
        shutil.copytree(tiny_teacher.path, folder / name)
    save_trained(folder / "my-classifier", tiny_teacher, ("LABEL_0", "LABEL_1"))
    write_csv(folder / "reviews.csv", tiny_texts(240))
    write_csv(folder / "test.csv", tiny_texts(60, seed=5))
    return folder


@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_python_runs_as_it_stands(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    exec(compile(block.code, str(ROOT / block.page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "code",
    [
        "potstill fit --trian reviews.csv --out reviews",
        "potstill distill teacher --train reviews.csv --num-layers 0 --out student",
        "potstill predictt student",
        "make dmeo",
        "pip install 'potstill[serv]'",
        "curl localhost:8080/predict -d '{\"input\": 1}'",
        'curl localhost:8080/predcit -d \'{"inputs": "a"}\'',
        "docker run potstill",
    ],
)
def test_a_wrong_line_is_found(code: str) -> None:
    with pytest.raises((ValueError, AssertionError, CycloptsError, msgspec.ValidationError)):
        checked(Block("page", "console", code, None))


@pytest.mark.parametrize(
    "code",
    [
        "from distill import NoSuchName",
        "from export import export_bundle\nexport_bundle(1, validatoin=2)",
        "print(",
    ],
)
def test_a_wrong_example_is_found(code: str) -> None:
    with pytest.raises((SyntaxError, TypeError, AttributeError)):
        checked(Block("page", "python", code, None))


def test_a_marked_block_is_checked_for_syntax() -> None:
    assert checked(Block("page", "bash", "docker run -p 8080:8080 potstill", "needs Docker")) == "syntax"
    with pytest.raises(Exception, match="bash"):
        checked(Block("page", "bash", "if true; do", "needs Docker"))


def test_lines_are_split_into_commands() -> None:
    lines = shell_lines("A=1 potstill predict s 'a b' | head > out  # words\n\ncd x && \\\n make demo\n")
    assert list(lines) == [[["potstill", "predict", "s", "a b"], ["head"]], [["cd", "x"], ["make", "demo"]]]
    assert list(shell_lines("potstill fit --label-separator '|'  # don't")) == [[["potstill", "fit", "--label-separator", "|"]]]
