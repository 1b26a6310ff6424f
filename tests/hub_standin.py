"""A stand-in for the Hugging Face Hub on loopback: serves folders as repositories.

Routes, as huggingface_hub asks for them: ``/{repo}/resolve/{revision}/{file}`` (data sets under
``/datasets/``) and ``/api/{models,datasets}/{repo}[/revision/{revision}]`` with ``/tree/``.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?")


class StandIn(ThreadingHTTPServer):
    """``repositories``: ``"models/owner/name"`` or ``"datasets/owner/name"`` -> folder. With
    ``break_off`` set, the connection closes after half of a file."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.break_off = repositories, False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/":
            self._send(200, b"stand-in")
        elif match := RESOLVE.fullmatch(path):
            kind, name, _, file = match.groups()
            self._file(self.server.repositories.get(f"{kind or 'models'}/{name}"), file)
        elif match := API.fullmatch(path):
            kind, name, verb, _, inner = match.groups()
            self._describe(self.server.repositories.get(f"{kind}/{name}"), name, verb, inner)
        else:
            self._missing("EntryNotFound")

    def _file(self, folder: Path | None, name: str) -> None:
        if folder is None:
            self._missing("RepoNotFound")
        elif not (folder / name).is_file():
            self._missing("EntryNotFound")
        else:
            content = (folder / name).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _describe(self, folder: Path | None, name: str, verb: str | None, inner: str) -> None:
        if folder is None:
            self._missing("RepoNotFound")
            return
        if verb == "tree":
            top = folder / inner if inner else folder
            answer = [
                {
                    "type": "directory" if path.is_dir() else "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": 0 if path.is_dir() else path.stat().st_size,
                    "oid": "0" * 40,
                }
                for path in sorted(top.rglob("*"))
            ]
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
            answer = {"id": name, "sha": COMMIT, "private": False, "siblings": siblings,
                      "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        is_file = "ETag" in (headers or {})
        whole = not (self.server.break_off and is_file)
        self.wfile.write(content if whole else content[: len(content) // 2])

    def log_message(self, *arguments: object) -> None:
        return


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[StandIn]:
    """The stand-in while the block runs."""
    hub = StandIn(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
