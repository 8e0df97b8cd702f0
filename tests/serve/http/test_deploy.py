"""The files that ship the server say what the real settings and the real routes know."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served import Running

from distill.cli.main import app
from distill.errors import SettingsError
from serve.http.access import Access
from serve.http.routes import find
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "serve" / "deploy"


def settings_of(command: list[str]) -> tuple[Path, ServeSettings]:
    """Return the bundle and the settings that a command line is read into; a flag that is not there fails."""
    assert Path(command[0]).name == "potstill"
    _, bound, ignored = app.parse_args(command[1:], exit_on_error=False, print_error=False)
    assert not ignored
    return bound.arguments["bundle"], bound.arguments["settings"]


def is_open(path: str) -> bool:
    """A probe brings no token."""
    found = find(path).get("GET")
    return found is not None and found.route.audience == "open"


def instructions() -> list[tuple[str, str]]:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name and name != "#"]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def kubernetes() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_the_image_starts_what_its_ports_say() -> None:
    bundle, settings = settings_of([*json.loads(of("ENTRYPOINT")[0]), *json.loads(of("CMD")[0])])
    assert (bundle, settings.host) == (Path("/bundle"), "0.0.0.0")
    assert of("EXPOSE") == [str(settings.port)]
    (url,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", of("HEALTHCHECK")[0])
    assert url[0] == str(settings.port)
    assert is_open(url[1])


def test_the_image_answers_nobody_without_tokens_unless_told_to() -> None:
    comments = [line.strip("# \n") for line in (DEPLOY / "Dockerfile").read_text().splitlines() if "docker run" in line]
    shown = next(shlex.split(line) for line in comments if "--allow-anonymous" in line)
    entry = json.loads(of("ENTRYPOINT")[0])
    _, closed = settings_of([*entry, *json.loads(of("CMD")[0])])
    _, opened = settings_of([*entry, *shown[shown.index("potstill") + 1 :]])
    with pytest.raises(SettingsError):
        Access.of(closed, {})
    assert Access.of(closed, {"POTSTILL_TOKENS": "a-long-token"}).callers
    assert not Access.of(opened, {}).callers
    assert any("-e POTSTILL_TOKENS=" in line for line in comments)


def test_the_image_holds_the_serve_extra_for_a_user_who_is_not_root() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "[serve]" in of("RUN")[-1]
    assert not any("torch" in each or "train" in each for each in project["optional-dependencies"]["serve"])
    last_user = [rest for name, rest in instructions() if name in ("USER", "FROM")][-1]
    assert last_user == "10001"
    copied = [word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    packages = {
        name.rstrip("*")
        for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= set(copied)
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_the_images_health_check_tells_a_server_that_answers_from_one_that_does_not(
    serve_bundle: Callable[..., Running],
) -> None:
    server = serve_bundle(environment={"POTSTILL_TOKENS": "open-sesame"})
    _, _, code = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    command = [sys.executable, "-c", code.replace("127.0.0.1:8080", "{}:{}".format(*server.address))]
    assert subprocess.run(command, check=False).returncode == 0
    server.stop()
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_the_systemd_unit() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "potstill.service")
    service = unit["Service"]
    _, settings = settings_of(shlex.split(service["ExecStart"]))
    assert settings.host == "127.0.0.1"
    credential, _, _ = service["LoadCredential"].partition(":")
    assert settings.token_file == Path("${CREDENTIALS_DIRECTORY}") / credential
    assert int(service["TimeoutStopSec"]) > settings.drain_s + settings.shutdown_s
    assert "-HUP" in service["ExecReload"]
    assert service["DynamicUser"] == "yes"


def test_the_page_for_prometheus_names_real_metrics_and_says_which_token_reads_them(
    serve_bundle: Callable[..., Running],
) -> None:
    page = (ROOT / "docs/deploy/docker-systemd-kubernetes.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(potstill_\w+)`", page))
    assert len(named) > 5
    tokens = {"POTSTILL_TOKENS": "caller-token", "POTSTILL_ADMIN_TOKENS": "admin-token"}
    server = serve_bundle(allowed_hosts=("classify.example.org", "127.0.0.1"), environment=tokens)
    caller = "Bearer caller-token"
    assert server.ask("GET", "/health/ready", host="another.example.org").status == 200
    assert server.ask("GET", "/metrics", host="another.example.org", authorization=caller).status == 421
    assert server.ask("GET", "/metrics", authorization="Bearer admin-token").status == 401
    exposed = server.ask("GET", "/metrics", authorization=caller).body.decode()
    assert named <= set(re.findall(r"# TYPE (\w+)", exposed))


def test_the_kubernetes_manifest() -> None:
    found = kubernetes()
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    bundle, settings = settings_of([*json.loads(of("ENTRYPOINT")[0]), *container["args"]])
    (port,) = container["ports"]
    assert (port["containerPort"], settings.host) == (settings.port, "0.0.0.0")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]["httpGet"]
        assert probe["port"] == port["name"]
        assert is_open(probe["path"])
    # A server that ends is not ready, but alive: else it would be killed with its requests.
    assert find(container["livenessProbe"]["httpGet"]["path"])["GET"].route.does == "live"
    assert pod["terminationGracePeriodSeconds"] > settings.drain_s + settings.shutdown_s
    readiness = container["readinessProbe"]
    assert settings.drain_s > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert str(bundle) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert str(pod["securityContext"]["runAsUser"]) == of("USER")[0]
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels == found["Deployment"]["spec"]["selector"]["matchLabels"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert Access.of(settings, {container["env"][0]["name"]: "a-long-token"}).callers


def test_the_readme_names_every_file() -> None:
    page = (ROOT / "serve" / "README.md").read_text()
    assert all(f"deploy/{path.name}" in page for path in DEPLOY.iterdir())
