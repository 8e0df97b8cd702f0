"""Publishing a bundle as a repository of a model hub: every file that its manifest lists, as it was verified.

It speaks to the hub through `huggingface_hub` and changes nothing in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from distill.bundle import CARD, MANIFEST, Bundle
from distill.card import card_text
from distill.errors import AddressError, BundleError, SettingsError, requires
from export.trust.signing import SIGNATURE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_THE_HUB: Final = frozenset({".gitattributes"})
"""Files that the hub puts into every repository."""


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        address: The page of the repository.
        revision: The commit.
        is_private: Whether only its owner sees the repository; None after an update, which does not change it.
        files: What was uploaded, or is there already with the same content.
        left_out: Files in the bundle's folder that are not part of the bundle.
        kept: Files of an earlier commit that are not part of the bundle.
    """

    address: str
    revision: str
    is_private: bool | None
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    kept: tuple[str, ...]


def push_bundle(
    bundle: Bundle, repository: str, *, public: bool = False, update: bool = False, endpoint: str | None = None
) -> Pushed:
    """Upload a bundle in one commit.

    Args:
        bundle: An opened bundle, so that its files are verified.
        repository: `OWNER/NAME`.
        public: Whether everybody may see a new repository.
        update: Whether the repository exists and gets a new commit; else it is made.
        endpoint: Address of the hub; None: `HF_ENDPOINT`, by default huggingface.co.

    Raises:
        SettingsError: There is no token, the hub refuses it, or the repository exists already, or with `update` does not.
        AddressError: The hub cannot be reached, or does not take a file.
        BundleError: After the commit a file is missing in the repository.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    if repository.count("/") != 1 or repository.startswith("/") or repository.endswith("/"):
        raise SettingsError(f"a repository is named OWNER/NAME, got {repository!r}")
    if public and update:
        raise SettingsError("an update does not change who sees the repository; leave out --public, and change it on its page")
    with requires("pushing a bundle"):
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
    token = get_token()
    if token is None:
        raise SettingsError("there is no token of the hub; set HF_TOKEN to one that may write, or run: hf auth login")
    hub, contents = HfApi(endpoint=endpoint, token=token), _contents_of(bundle)
    if not update:
        with _in_words(hub, repository):
            hub.create_repo(repository, private=not public)
    with _in_words(hub, repository, made=not update):
        before = set(hub.list_repo_files(repository))
        commit = hub.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()],
            commit_message=f"potstill {version('potstill')}: {bundle.manifest.role} {bundle.digest[:12]}",
        )
        after = set(hub.list_repo_files(repository))
    if missing := contents.keys() - after:
        # A .gitignore in the repository makes the hub ignore files without an error.
        raise BundleError(f"{repository} did not take {', '.join(sorted(missing))}; does it have a .gitignore?")
    return Pushed(
        address=f"{hub.endpoint}/{repository}",
        revision=commit.oid,
        is_private=None if update else not public,
        files=tuple(sorted(contents)),
        left_out=tuple(_left_out(bundle, contents)),
        kept=tuple(sorted(before - contents.keys() - _OF_THE_HUB)),
    )


def _contents_of(bundle: Bundle) -> dict[str, Any]:
    """Return what is uploaded, by its name: paths, and the card as bytes if the bundle has none."""
    names = [*bundle.manifest.files, MANIFEST, *([SIGNATURE] if (bundle.path / SIGNATURE).is_file() else [])]
    contents: dict[str, Any] = {name: bundle.path / name for name in names}
    return {CARD: card_text(bundle.manifest).encode(), **contents}


def _left_out(bundle: Bundle, contents: dict[str, Any]) -> Iterator[str]:
    for path in sorted(bundle.path.rglob("*")):
        name = path.relative_to(bundle.path).as_posix()
        if path.is_file() and name not in contents:
            yield name


@contextmanager
def _in_words(hub: HfApi, repository: str, *, made: bool = False) -> Iterator[None]:
    """Turn what the hub or the way to it refuses into our errors; `made` says that this run has made the repository."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    # The hub's own error is one of the HTTP library's, whose name depends on the release of huggingface_hub.
    http_error = next(each for each in HfHubHTTPError.__bases__ if issubclass(each, Exception) and each.__name__ == "HTTPError")
    hint = "; the repository is made and still empty, so push again with --update" if made else ""
    try:
        yield
    except OfflineModeIsEnabled as exc:
        raise AddressError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it") from exc
    except RepositoryNotFoundError as exc:
        raise SettingsError(
            f"{hub.endpoint} has no repository {repository} that this token may see; leave out --update to make it"
        ) from exc
    except HFValidationError as exc:
        raise SettingsError(f"the hub has no names like {repository!r}: {exc}") from exc
    except http_error as exc:
        raise _refusal(exc, hub.endpoint, repository, hint) from exc
    except (ValueError, RuntimeError) as exc:  # its checks of the card's metadata, and uploads of large files
        raise AddressError(f"{hub.endpoint} does not take the bundle: {exc}{hint}") from exc


def _refusal(exc: Exception, endpoint: str, repository: str, hint: str) -> SettingsError | AddressError:
    response = getattr(exc, "response", None)
    if response is None:
        return AddressError(f"{endpoint} cannot be reached: {exc or type(exc).__name__}{hint}")
    known = {
        401: "does not know the token; make a new one that may write, and set HF_TOKEN or run: hf auth login",
        403: f"does not let this token write to {repository}; use a token that may",
        409: f"has a repository {repository} already; add --update for a new commit in it, or choose another name",
    }
    if response.status_code in known:
        return SettingsError(f"{endpoint} {known[response.status_code]}{hint}")
    said = getattr(exc, "server_message", None) or response.reason_phrase  # the whole text has several lines and a link
    return AddressError(f"{endpoint} answers {response.status_code}: {said}{hint}")
