"""Replicas behind Ray Serve: all run the bundle that was there when the application was built, or they do not start.

Ray is stood in for by what `build` calls of it; `tests/interop` runs the real one.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.bundle import Bundle
from distill.errors import BundleError, SettingsError
from serve.http.app import App
from serve.ray_serve import build


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that builds, and returns the options of the deployment and what each replica starts."""

    def deploy(**arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        class Deployment:
            def options(self, **options: Any) -> Deployment:
                found.update(options)
                return self

            def bind(self) -> Deployment:
                return self

        def ingress(start: Callable[[], App]) -> Callable[[], object]:
            found["start"] = start
            return object

        fake = SimpleNamespace(ingress=ingress, deployment=lambda _, name: Deployment())
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=fake))
        build(arguments)
        return found

    return deploy


def replaced(bundle: Path, other: Bundle) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(other.path, bundle)


def test_a_replica_has_the_threads_of_its_processors_and_the_limits_that_were_given(
    tiny_student: Bundle, deployed: Callable[..., dict[str, Any]]
) -> None:
    found = deployed(bundle=str(tiny_student.path), num_replicas="3", num_cpus="2", max_texts="5", max_queue="77")
    assert (found["num_replicas"], found["ray_actor_options"], found["max_ongoing_requests"]) == (3, {"num_cpus": 2}, 77)
    app = found["start"]()
    assert (app.settings.threads, app.settings.max_texts) == (2, 5)
    app.close()


def test_a_replica_that_finds_another_bundle_does_not_start(
    tiny_student: Bundle, tiny_fallback: Bundle, copied: Callable[[Bundle], Bundle], deployed: Callable[..., dict[str, Any]]
) -> None:
    folder = copied(tiny_student).path
    start = deployed(bundle=str(folder))["start"]
    start().close()
    replaced(folder, tiny_fallback)  # another precision, and other weights
    for _ in range(2):  # a replica that is started again, too
        with pytest.raises(BundleError, match="require"):
            start()


def test_a_replica_is_reloaded_only_to_what_all_of_them_run(
    tiny_student: Bundle, tiny_fallback: Bundle, copied: Callable[[Bundle], Bundle], deployed: Callable[..., dict[str, Any]]
) -> None:
    folder = copied(tiny_student).path
    app = deployed(bundle=str(folder))["start"]()
    (model,) = app.models.values()
    before = model.engine

    async def reload_both() -> None:
        same = await model.reload()
        assert (same.version, same.kind()) == (before.version, before.kind())
        replaced(folder, tiny_fallback)
        with pytest.raises(BundleError, match="require"):
            await model.reload()
        assert model.engine is same

    asyncio.run(reload_both())
    app.close()


def test_a_replica_has_no_admin_routes(
    tiny_student: Bundle, deployed: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_ADMIN_TOKENS", "a-token-that-would-open-the-reload-route")
    app = deployed(bundle=str(tiny_student.path))["start"]()
    call = app.judge(
        "POST", "/admin/reload", {b"authorization": b"Bearer a-token-that-would-open-the-reload-route"}, "127.0.0.1"
    )
    assert call.reply is not None
    assert call.reply.status == 404
    app.close()
    with pytest.raises(SettingsError, match="a reload would reach one replica of many"):
        deployed(bundle=str(tiny_student.path), admin_token_file=str(tmp_path / "admin"))


def test_a_bundle_must_be_named_and_must_be_what_is_required(
    tiny_student: Bundle, deployed: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(SettingsError, match="no bundle to serve"):
        deployed()
    with pytest.raises(BundleError):
        deployed(bundle=str(tiny_student.path), require_digest=["0" * 64])
