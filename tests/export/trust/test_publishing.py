"""A push against a hub on a real socket: what arrives is the bundle, and every refusal is said in words."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_in_hub import READ_TOKEN, TOKEN, Hub, running_hub
from tiny_task import Outcome

from distill.bundle import CARD, MANIFEST, Bundle
from distill.errors import AddressError, BundleError, MissingExtraError, SettingsError
from export.trust.publishing import Pushed, push_bundle

pytest.importorskip("huggingface_hub")
# Its own way of sending large files; the library that sends them would rather have another argument.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "somebody/reviews"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return a hub that this process has a token for; large files go over HTTP, not over the hub's own protocol."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as made:
        yield made


def push(bundle: Bundle, hub: Hub, **options: bool) -> Pushed:
    return push_bundle(bundle, NAME, endpoint=hub.address, **options)


@pytest.fixture
def own(tiny_student: Bundle, tmp_path: Path) -> Bundle:
    """Return a copy of the tiny student that a test may change."""
    return Bundle.open(shutil.copytree(tiny_student.path, tmp_path / "own"))


def test_what_arrives_is_the_bundle(tiny_student: Bundle, hub: Hub, tmp_path: Path) -> None:
    done = push(tiny_student, hub)
    repository = hub.repositories[NAME]
    for name, content in repository.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert Bundle.open(tmp_path).digest == tiny_student.digest  # every size and SHA-256 is checked
    assert set(done.files) == {*tiny_student.manifest.files, MANIFEST, CARD} == set(repository.files) - {".gitattributes"}
    assert repository.commits == [f"potstill {done_version()}: student {tiny_student.digest[:12]}"]
    assert len(hub.large) == len([name for name in done.files if name.endswith((".onnx", ".safetensors"))])
    assert (done.address, done.revision) == (f"{hub.address}/{NAME}", f"{1:040x}")
    assert done.kept == ()


def done_version() -> str:
    from importlib.metadata import version

    return version("potstill")


@pytest.mark.parametrize("public", [False, True])
def test_a_new_repository_is_private_unless_asked(tiny_student: Bundle, hub: Hub, public: bool) -> None:
    assert push(tiny_student, hub, public=public).is_private is not public
    assert hub.repositories[NAME].is_private is not public


def test_files_that_are_not_of_the_bundle_are_named_and_stay(own: Bundle, hub: Hub) -> None:
    (own.path / "reviews.csv").write_text("secret")
    assert push(own, hub).left_out == ("reviews.csv",)
    assert "reviews.csv" not in hub.repositories[NAME].files
    hub.repositories[NAME].files["model_int4.onnx"] = b"of an earlier commit"
    assert push(own, hub, update=True).kept == ("model_int4.onnx",)
    assert len(hub.repositories[NAME].commits) == 2


def test_a_bundle_without_a_card_gets_one(own: Bundle, hub: Hub) -> None:
    sealed = own.adding({}, dropping={CARD})
    (own.path / CARD).unlink(missing_ok=True)
    push(sealed, hub)
    assert hub.repositories[NAME].files[CARD].startswith(b"---\nlibrary_name: potstill\n")


def test_a_repository_that_exists_is_not_touched_without_update(tiny_student: Bundle, hub: Hub) -> None:
    push(tiny_student, hub)
    before = len(hub.asked)
    with pytest.raises(SettingsError, match=f"has a repository {NAME} already; add --update"):
        push(tiny_student, hub)
    assert hub.asked[before:] == ["POST /api/repos/create"]
    assert len(hub.repositories[NAME].commits) == 1


def test_an_update_needs_a_repository_and_keeps_who_sees_it(tiny_student: Bundle, hub: Hub) -> None:
    with pytest.raises(SettingsError, match=f"no repository {NAME} that this token may see; leave out --update"):
        push(tiny_student, hub, update=True)
    with pytest.raises(SettingsError, match="leave out --public"):
        push(tiny_student, hub, update=True, public=True)


@pytest.mark.parametrize("name", ["reviews", "a/b/c", "somebody/", "somebody/re views"])
def test_a_name_that_is_none_is_refused(tiny_student: Bundle, hub: Hub, name: str) -> None:
    with pytest.raises(SettingsError):
        push_bundle(tiny_student, name, endpoint=hub.address)
    assert hub.asked == []


def test_without_a_token_nothing_is_asked(tiny_student: Bundle, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match="no token of the hub; set HF_TOKEN"):
        push(tiny_student, hub)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("token", "said"),
    [("hf_old", "does not know the token"), (READ_TOKEN, "does not let this token write to somebody/reviews")],
)
def test_a_token_that_may_not_is_refused(
    tiny_student: Bundle, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SettingsError, match=said):
        push(tiny_student, hub)
    assert hub.repositories == {}


def test_a_failed_upload_says_that_the_repository_is_made(tiny_student: Bundle, hub: Hub) -> None:
    hub.broken = True
    with pytest.raises(AddressError, match="answers 500: the disk is full; the repository is made and still empty"):
        push(tiny_student, hub)
    hub.broken = False
    assert push(tiny_student, hub, update=True).is_private is None


def test_a_file_that_the_hub_ignores_is_an_error(tiny_student: Bundle, hub: Hub) -> None:
    hub.ignored = ("config.json",)
    with pytest.raises(BundleError, match=r"did not take config\.json; does it have a \.gitignore"):
        push(tiny_student, hub)


def test_a_hub_that_is_not_there_is_named(tiny_student: Bundle, hub: Hub) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(AddressError, match=f"{nobody} cannot be reached"):
            push_bundle(tiny_student, NAME, endpoint=nobody)


def test_offline_is_said(tiny_student: Bundle, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AddressError, match="HF_HUB_OFFLINE is set"):
        push(tiny_student, hub)


def test_without_the_extra_the_message_names_it(tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'potstill\[push\]'"):
        push_bundle(tiny_student, NAME)


def test_the_command_says_where_the_bundle_is_and_what_it_left(
    own: Bundle, hub: Hub, potstill: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    (own.path / "notes.txt").write_text("secret")
    done = potstill("push", own.path, NAME)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{hub.address}/{NAME}, private: only its owner sees it\ncommit ")
    assert "not part of the bundle, not uploaded: notes.txt\n" in done.out
    again = potstill("push", own.path, NAME)
    assert (again.code, again.complaint.count("add --update")) == (2, 1)
