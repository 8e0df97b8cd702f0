"""A stand-in for a model hub: the part of its HTTP API that a push uses, with its status codes, on a real socket."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_may_write"
READ_TOKEN = "hf_may_read"
LARGE = (".safetensors", ".onnx")
Answer = tuple[int, Any]


@dataclass
class Repository:
    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What it holds, and the paths it was asked for."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()
    broken: bool = False

    def answer(self, method: str, path: str, body: bytes, token: str) -> Answer:
        """Return status and values; what needs a right is refused without it."""
        if method == "PUT":  # a large file, at an address that the hub has made
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if token not in (TOKEN, READ_TOKEN):
            return 401, {"error": "Invalid credentials"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if method == "POST" and token == READ_TOKEN:
            return 403, {"error": "Forbidden: you must use a token with write access"}
        if path == "/api/repos/create":
            return self._make(json.loads(body))
        name, part = self._named(path)
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        if part == "commit" and self.broken:
            return 500, {"error": "the disk is full"}
        parts: dict[str, Callable[[Repository, str, bytes], Answer]] = {
            "tree": self._tree,
            "preupload": self._plan,
            "info": self._places,
            "commit": self._commit,
        }
        return parts[part](self.repositories[name], name, body)

    def _named(self, path: str) -> tuple[str, str]:
        pieces = path.split("?")[0].removeprefix("/api/models/").strip("/").split("/")
        return f"{pieces[0]}/{pieces[1]}".removesuffix(".git"), pieces[2] if len(pieces) > 2 else "tree"

    def _make(self, wanted: dict[str, Any]) -> Answer:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.repositories[name] = Repository(is_private, {".gitattributes": b"*.onnx filter=lfs\n"})
        return 200, {"url": f"{self.address}/{name}"}

    def _tree(self, repository: Repository, name: str, body: bytes) -> Answer:
        files = repository.files
        listed = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]
        return 200, listed

    def _plan(self, repository: Repository, name: str, body: bytes) -> Answer:
        paths = [each["path"] for each in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        return 200, {
            "files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": path in self.ignored} for path in paths]
        }

    def _places(self, repository: Repository, name: str, body: bytes) -> Answer:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.address}/large/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _commit(self, repository: Repository, name: str, body: bytes) -> Answer:
        head, *changes = [json.loads(line) for line in body.splitlines()]
        for change in changes:
            value = change["value"]
            content = base64.b64decode(value["content"]) if change["key"] == "file" else self.large[value["oid"]]
            assert change["key"] == "file" or hashlib.sha256(content).hexdigest() == value["oid"]
            repository.files[value["path"]] = content
        repository.commits.append(head["value"]["summary"])
        oid = f"{len(repository.commits):040x}"
        return 200, {"commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}", "success": True}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answered(self) -> None:
            length = self.headers["content-length"]
            body = self.rfile.read(int(length)) if length else self._chunks()
            hub.asked.append(f"{self.command} {self.path.split('?')[0]}")
            token = (self.headers["authorization"] or "").removeprefix("Bearer ")
            status, values = hub.answer(self.command, self.path, body, token)
            content = json.dumps(values).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("x-error-code", "RepoNotFound")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _chunks(self) -> bytes:
            if self.headers["transfer-encoding"] != "chunked":
                return b""
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        do_GET = do_POST = do_PUT = do_HEAD = _answered  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
