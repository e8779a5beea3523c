"""Fixtures: a saved model, and a fake Hugging Face hub on localhost that serves one model."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from lolm_plugin.llm.sources import resolve

COMMIT = "a" * 40
NOWHERE = "http://127.0.0.1:9"  # the discard port: refuses at once


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a saved tiny Qwen3."""
    folder = tmp_path / "saved"
    source = resolve("tiny-qwen3")
    source.load_model(None, torch.float32, True, 0).save_pretrained(folder)
    source.load_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """Serve a model with ``with fake_hub(model, folder) as asked``; outside the block the hub is unreachable.

    ``asked`` lists the paths that were requested so far.
    """

    def use(endpoint):
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use(NOWHERE)

    @contextmanager
    def serve(model, folder):
        with _serve(model, folder) as (endpoint, asked):
            use(endpoint)
            yield asked
            use(NOWHERE)

    return serve


@contextmanager
def _serve(model: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the files under ``folder`` as ``model``; yield the endpoint and the paths that were requested so far."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            path = self.path.split("?")[0]
            if path in (f"/api/models/{model}", f"/api/models/{model}/revision/main"):
                siblings = [{"rfilename": name} for name in files]
                self._reply({"id": model, "modelId": model, "sha": COMMIT, "siblings": siblings, "tags": []})
            elif path == f"/api/models/{model}/tree/{COMMIT}":
                self._reply(
                    [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}
                        for name, path in files.items()
                    ]
                )
            elif path.startswith(f"/{model}/resolve/") and path.split("/", 5)[5] in files:
                self._send(files[path.split("/", 5)[5]])
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def _reply(self, document):
            self._body(json.dumps(document).encode(), "application/json")

        def _send(self, path):
            self._body(path.read_bytes(), "application/octet-stream", **{"ETag": f'"{_oid(path)}"'})

        def _body(self, body, kind, **headers):
            self.send_response(200)
            # The hub suggests a login with this header. The client logs each new topic once.
            headers["X-HF-Warning"] = f"{time.monotonic_ns()}; you are not logged in"
            for name, value in {"Content-Type": kind, "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
