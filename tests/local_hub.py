"""A small stand-in for the Hugging Face Hub on this computer: folders as repositories.

It answers the requests that ``huggingface_hub`` makes to download and to upload, so both can be
tested without an account or a network. It keeps no history. Set ``HF_ENDPOINT`` to its
``url`` (and ``HF_HUB_DISABLE_XET=1`` to upload: it does not speak that protocol) before
huggingface_hub is imported.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_NAME = r"([^/]+/[^/]+)"
_RESOLVE = re.compile(rf"/(?:(datasets)/)?{_NAME}/resolve/([^/]+)/(.+)")
_API = re.compile(rf"/api/(models|datasets)/{_NAME}(?:/(revision|tree)/([^/]+)/?(.*))?")
_WRITE = re.compile(rf"/api/(models|datasets)/{_NAME}/(preupload|commit)/[^/]+")
_LARGE = re.compile(rf"/(?:(datasets)/)?{_NAME}\.git/info/lfs/objects/batch")
_BIG = 10_000_000  # bytes from which a file is uploaded separately, as on the Hub


class LocalHub(ThreadingHTTPServer):
    """``repositories``: ``"models/owner/name"`` or ``"datasets/owner/name"`` -> folder.

    store: folder in which uploads create repositories. token, owner: an upload needs this token
    and may only create repositories of this owner; without a token nothing can be uploaded. With
    ``break_off`` set, the connection closes after half of a file.
    """

    daemon_threads = True

    def __init__(
        self,
        repositories: dict[str, Path] | None = None,
        *,
        store: Path | None = None,
        token: str | None = None,
        owner: str = "me",
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.break_off = dict(repositories or {}), False
        self.store, self.token, self.owner = store, token, owner
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.blobs: dict[str, bytes] = {}


@contextmanager
def serve(repositories: dict[str, Path] | None = None, **options: Any) -> Iterator[LocalHub]:
    """The stand-in while the block runs; options as in ``LocalHub``."""
    hub = LocalHub(repositories, **options)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub

    # -- loading -----------------------------------------------------------------------------------

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/":
            self._send(200, b"stand-in")
        elif match := _RESOLVE.fullmatch(path):
            kind, name, _, file = match.groups()
            self._file(self.server.repositories.get(f"{kind or 'models'}/{name}"), file)
        elif match := _API.fullmatch(path):
            kind, name, verb, _, inner = match.groups()
            self._describe(self.server.repositories.get(f"{kind}/{name}"), name, verb, inner)
        else:
            self._refuse(404, "EntryNotFound")

    def _file(self, folder: Path | None, name: str) -> None:
        if folder is None:
            self._refuse(404, "RepoNotFound")
        elif not (folder / name).is_file() or not _is_inside(folder / name, folder):
            self._refuse(404, "EntryNotFound")
        else:
            content = (folder / name).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _describe(self, folder: Path | None, name: str, verb: str | None, inner: str) -> None:
        if folder is None:
            self._refuse(404, "RepoNotFound")
            return
        if verb == "tree":
            top = folder / inner if inner and _is_inside(folder / inner, folder) else folder
            answer: Any = [
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
        self._json(200, answer)

    # -- uploading ---------------------------------------------------------------------------------

    def do_POST(self) -> None:
        path, body = unquote(urlparse(self.path).path), self._body()
        given = self.headers.get("Authorization", "")
        if self.server.token is None or given != f"Bearer {self.server.token}":
            self._refuse(401, "", "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := _LARGE.fullmatch(path):
            self._json(200, {"objects": list(map(self._large, json.loads(body)["objects"]))})
        elif match := _WRITE.fullmatch(path):
            kind, name, verb = match.groups()
            folder = self.server.repositories.get(f"{kind}/{name}")
            if folder is None:
                self._refuse(404, "RepoNotFound")
            elif verb == "preupload":
                files = json.loads(body)["files"]
                self._json(200, {"files": list(map(self._way, files))})
            else:
                self._commit(folder, name, [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404, "EntryNotFound")

    def do_PUT(self) -> None:
        """A large file, named by its hash and kept until a commit refers to it."""
        content, oid = self._body(), self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            self._refuse(400, "", "the content has another hash")
            return
        self.server.blobs[oid] = content
        self._send(200, b"")

    def _create(self, asked: dict[str, Any]) -> None:
        owner, name = asked.get("organization") or self.server.owner, asked["name"]
        kind = f"{asked.get('type') or 'model'}s"
        if owner != self.server.owner:
            self._refuse(403, "", f"You don't have the rights to create a model under {owner}.")
        elif f"{kind}/{owner}/{name}" in self.server.repositories:
            url = f"{self.server.url}/{owner}/{name}"
            self._json(409, {"error": "You already created this model repo.", "url": url})
        else:
            folder = self.server.store / kind / owner / name
            folder.mkdir(parents=True, exist_ok=True)
            self.server.repositories[f"{kind}/{owner}/{name}"] = folder
            self._json(200, {"url": f"{self.server.url}/{owner}/{name}"})

    def _way(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors") or file["size"] > _BIG
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _large(self, asked: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.server.url}/large/{asked['oid']}"}
        known = asked["oid"] in self.server.blobs
        return asked if known else {**asked, "actions": {"upload": upload}}

    def _commit(self, folder: Path, name: str, lines: list[dict[str, Any]]) -> None:
        top = folder.resolve()
        contents: dict[Path, bytes] = {}
        for line in lines:
            value = line["value"]
            path = (top / value.get("path", "")).resolve()
            if not path.is_relative_to(top):
                self._refuse(400, "", f"{value['path']} leaves the repository")
                return
            if line["key"] == "file":
                contents[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                contents[path] = self.server.blobs[value["oid"]]
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        url = f"{self.server.url}/{name}/commit/{COMMIT}"
        self._json(200, {"commitUrl": url, "commitOid": COMMIT})

    # -- both --------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, status: int, answer: Any) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        content = json.dumps({"error": message}).encode() if message else b""
        self._send(status, content, {"X-Error-Code": code} if code else {})

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


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
