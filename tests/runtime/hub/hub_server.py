"""A Hugging Face Hub on 127.0.0.1, as far as its client needs one to download a model.

Two HTTP servers: the Hub itself, and the store that it redirects to for large files (another origin, so that
a test can see whether the client sends the token there). Faults are switched on per test; every request is
kept in ``requests``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_" + "g" * 34
OTHER_TOKEN = "hf_" + "o" * 34  # valid, but its account has accepted no licence
_LARGE = re.compile(r".*\.safetensors|tokenizer\.(json|model)|.*\.(bin|gguf)")


@dataclass
class Seen:
    """One request as the server got it."""

    server: str  # hub | store
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass
class Fault:
    """What happens to requests whose path contains ``part``, ``times`` times, from the ``skip``-th on."""

    part: str
    kind: str  # status | close | reset | hang | ignore_range | damage | page
    times: int = 1
    status: int = 500
    after: int = 0  # bytes of the body that are sent before it happens
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"


@dataclass
class Repo:
    """A repository with one commit."""

    files: dict[str, bytes]
    gated: bool = False
    refs: tuple[str, ...] = ("main",)
    claimed_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        content = [f"{name} {_git_sha(data)}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()

    def size(self, name: str) -> int:
        return self.claimed_sizes.get(name, len(self.files[name]))


class HubServer:
    """The running servers and what they hold."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.hanging = Event()  # set when a request has reached a "hang" fault
        self.release = Event()  # set to let hanging requests end
        self._hub = _server(self, "hub")
        self._store = _server(self, "store")
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.store_url = f"http://localhost:{self._store.server_port}"  # another host, as on the real Hub

    def add(self, repo_id: str, repo: Repo) -> Repo:
        self.repos[repo_id] = repo
        return repo

    def fail(self, part: str, kind: str, **settings: object) -> None:
        self.faults.append(Fault(part, kind, **settings))  # type: ignore[arg-type]

    def gets(self, part: str, server: str | None = None) -> list[Seen]:
        """The GET requests so far whose path contains ``part``."""
        return [
            seen
            for seen in self.requests
            if seen.method == "GET" and part in seen.path and server in (None, seen.server)
        ]

    def close(self) -> None:
        self.release.set()
        for server in (self._hub, self._store):
            server.shutdown()
            server.server_close()


@contextmanager
def serve() -> Iterator[HubServer]:
    """A running Hub."""
    hub = HubServer()
    try:
        yield hub
    finally:
        hub.close()


def model_files(*, rows: int = 2048, shards: int = 1, dtype: str = "F16") -> dict[str, bytes]:
    """A small but well-formed model folder: ``rows`` x 256 values of two bytes each in every shard."""
    files = {
        "config.json": json.dumps({"model_type": "gemma", "hidden_size": 256}).encode(),
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "README.md": b"---\nlicense: gemma\n---\n",
    }
    weight_map = {}
    for i in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{i + 1:05}-of-{shards:05}.safetensors"
        body = hashlib.shake_256(bytes([i])).digest(rows * 256 * 2)
        tensor = {"dtype": dtype, "shape": [rows, 256], "data_offsets": [0, len(body)]}
        header = json.dumps({f"layer.{i}": tensor}).encode()
        files[name] = struct.pack("<Q", len(header)) + header + body
        weight_map[f"layer.{i}"] = name
    if shards > 1:
        files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return files


def assert_whole(folder: Path, repo: Repo) -> None:
    """Every file in the folder is, byte for byte, the repository's."""
    for file in folder.iterdir():
        assert file.read_bytes() == repo.files[file.name], file.name


@functools.lru_cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache
def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _server(hub: HubServer, name: str) -> ThreadingHTTPServer:
    class Handler(_Handler):
        server_name = name

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    server_name: str

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(
            Seen(self.server_name, self.command, path, {k.lower(): v for k, v in self.headers.items()})
        )
        fault = self._fault(path)
        if fault is not None and fault.kind == "status":
            return self._error(fault.status, "", "made to fail", fault.headers)
        if fault is not None and fault.kind == "page":
            return self._send(200, b"<html>Log in to the network</html>", {"Content-Type": "text/html"})
        if fault is not None and fault.kind == "hang" and fault.after == 0:
            return self._hang()
        if self.server_name == "store":
            return self._store(path, fault)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (GOOD_TOKEN, OTHER_TOKEN):
            return self._error(401, "", "Invalid credentials in Authorization header")
        raw = urlsplit(self.path).path  # a slash inside a revision arrives quoted
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", raw):
            return self._api(match[1], match[2], unquote(match[3] or "main"), token)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)", raw):
            return self._resolve(match[1], unquote(match[2]), unquote(match[3]), token)
        return self._error(404, "", "Sorry, we can't find the page you are looking for.")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.part in path and fault.method == self.command:
                fault.times -= 1
                return fault
        return None

    def _repo(self, repo_id: str, revision: str, token: str) -> Repo | None:
        """The repository; None after having sent the error."""
        repo = self.hub.repos.get(repo_id)
        if repo is None and not token:  # the Hub does not tell strangers what exists
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif repo is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif revision not in (*repo.refs, repo.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _api(self, repo_id: str, kind: str | None, revision: str, token: str) -> None:
        repo = self._repo(repo_id, revision, token)
        if repo is None:
            return
        entries = []
        for name, data in repo.files.items():
            entry: dict[str, object] = {"size": repo.size(name), "oid": _git_sha(data)}
            if _LARGE.fullmatch(name):
                lfs = {"size": repo.size(name), "pointerSize": 134}
                entry["lfs"] = {**lfs, "oid" if kind == "tree" else "sha256": sha256(data)}
            if kind == "tree":
                entries.append({**entry, "type": "file", "path": name})
            else:
                entries.append({**entry, "rfilename": name, "blobId": entry["oid"]})
        info = {
            "id": repo_id,
            "sha": repo.commit,
            "siblings": entries,
            "gated": "manual" if repo.gated else False,
        }
        self._send(200, json.dumps(entries if kind == "tree" else info).encode(), {})

    def _resolve(self, repo_id: str, revision: str, name: str, token: str) -> None:
        repo = self._repo(repo_id, revision, token)
        if repo is None:
            return
        if repo.gated and not token:
            text = f"Access to model {repo_id} is restricted. You must be authenticated to access it."
            return self._error(401, "GatedRepo", text)
        if repo.gated and token != GOOD_TOKEN:
            text = f"Access to model {repo_id} is restricted and you are not in the authorized list."
            return self._error(403, "GatedRepo", text)
        if name not in repo.files:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
        data = repo.files[name]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{_git_sha(data)}"'}
        if not _LARGE.fullmatch(name):
            return self._send(200, data, headers)
        headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        location = f"{self.hub.store_url}/{repo_id}/{name}?signature=s3cret"
        return self._send(302, b"", {**headers, "Location": location})

    def _store(self, path: str, fault: Fault | None) -> None:
        _, org, repo, name = path.split("/", 3)
        data = self.hub.repos[f"{org}/{repo}"].files[name]
        if fault is not None and fault.kind == "damage":
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and not (fault and fault.kind == "ignore_range") else 0
        if start >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers = {"ETag": f'"{sha256(data)}"', "Accept-Ranges": "bytes"}
        if wanted and start == int(wanted[1]):
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self._send(206, data[start:], headers, fault)
        return self._send(200, data, headers, fault)

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        known = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), known | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            **headers,
            "Content-Length": len(body),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.kind in ("ignore_range", "damage"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.after])
        if fault.kind == "hang":
            self._hang()
        if fault.kind == "reset":  # RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _hang(self) -> None:
        self.hub.hanging.set()
        self.hub.release.wait(30)
        self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client has gone, or a fault closed the socket
            super().handle()

    def log_message(self, *_: object) -> None:
        pass
