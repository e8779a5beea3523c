"""The dashboard answers only its own page, is read-only by default, and refuses a port or folder in use."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import time

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.tracking import mongo, omniboard
from tests.resume.runs import PATIENCE

# A server as careless as Omniboard: every origin may do everything, and if a port is in use the next one is tried.
CARELESS = """
const http = require("http");
const serve = (port) => http.createServer((request, response) => {
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.end(request.method);
}).listen(port).on("error", () => serve(port + 1));
serve(Number(process.env.PORT));
"""


@pytest.fixture(scope="module")
def careless(tmp_path_factory):
    """``careless(port, edit)`` starts ``CARELESS`` behind the guard; returns its process."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    script = tmp_path_factory.mktemp("careless") / "server.js"
    script.write_text(CARELESS)
    started = []

    def start(port, edit):
        settings = {"PORT": str(port), "LOLM_DASHBOARD_TOKEN": "token", "LOLM_DASHBOARD_EDIT": edit}
        command = ["node", "--require", str(omniboard.GUARD), str(script)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **settings}))
        return started[-1]

    yield start
    for process in started:
        omniboard.stop(process)


def wait_for(port):
    deadline = time.monotonic() + PATIENCE
    while omniboard._answer(port, "token") is None:
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ports(careless):
    """Return the ports of a read-only dashboard ("0") and of an editable one ("1")."""
    found = {}
    for edit in "01":
        found[edit] = omniboard.free_port()
        careless(found[edit], edit)
    for port in found.values():
        wait_for(port)
    return found


def ask(port, method, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, "/sacred/api/v1/Runs/1", headers={k: v.format(port=port) for k, v in headers.items()})
    response = connection.getresponse()
    return response, response.read()


OWN = {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
TYPED = {"Sec-Fetch-Site": "none"}
FOREIGN = (
    {"Host": "rebound.example:{port}"},  # DNS rebinding: an attacker's name that resolves to 127.0.0.1
    {"Host": "rebound.example:{port}", "Origin": "http://rebound.example:{port}", "Sec-Fetch-Site": "same-origin"},
    {"Host": "127.0.0.1.rebound.example:{port}"},
    {"Host": "localhost@rebound.example"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},  # a sandboxed frame, or a file
    {"Origin": "http://127.0.0.1:1"},  # another program of this machine
    {"Origin": "https://127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:{port}.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},  # a picture, a form or a frame, which send no origin
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize("edit", "01")
@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_another_page_gets_nothing(ports, edit, method, headers):
    response, body = ask(ports[edit], method, headers)
    assert response.status == 403
    assert body.startswith(b'{"message":"Refused: ')
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("headers", [{}, OWN, TYPED, {"Host": "localhost:{port}", **TYPED}])
def test_its_own_page_reads(ports, headers):
    for port in ports.values():
        response, body = ask(port, "GET", headers)
        assert (response.status, body) == (200, b"GET")
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_changes_need_allow_edit(ports, method):
    response, body = ask(ports["0"], method, OWN)
    assert response.status == 403
    assert "start it with lolm dashboard --allow-edit" in json.loads(body)["message"]
    assert ask(ports["1"], method, OWN)[0].status == (200 if method in ("POST", "PUT", "DELETE") else 403)
    assert ask(ports["1"], method, {})[0].status == 403, "our own page always sends an origin"


def test_the_guard_exits_if_the_port_is_in_use(careless, ports):
    second = careless(ports["0"], "0")
    assert second.wait(PATIENCE) == omniboard.PORT_TAKEN


@pytest.mark.parametrize("words", [["0"], ["65536"], ["-1"], ["²"], ["x"]])
def test_an_invalid_port_is_refused(capsys, words):
    assert lolm.main(["lolm", "dashboard", f"--port={words[0]}"]) == 2
    error = capsys.readouterr().err
    assert "a whole number from 1 to 65535" in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_refused_before_any_run_is_read(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert lolm.main(["lolm", "dashboard", str(tmp_path), f"--port={port}"]) == 2
    assert f"--port={port} is in use; set another port, or leave --port out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_second_dashboard_of_a_folder_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LOLM_MONGO_URL", raising=False)
    monkeypatch.setattr(omniboard, "install", lambda: None)
    with mongo.embedded(tmp_path):
        assert lolm.main(["lolm", "dashboard", str(tmp_path)]) == 2
    assert f"another lolm dashboard shows the runs below {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "file", "damaged"])
def test_an_unusable_database_folder_is_refused(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.delenv("LOLM_MONGO_URL", raising=False)
    monkeypatch.setattr(omniboard, "install", lambda: None)
    storage = tmp_path / "runs/.dashboard"
    storage.parent.mkdir()
    (tmp_path / "mine").mkdir()
    if kind == "link":
        storage.symlink_to(tmp_path / "mine")
    elif kind == "file":
        storage.write_text("")
    else:
        storage.mkdir()
        (storage / "WiredTiger").write_bytes(b"x" * 100)
        (storage / "WiredTiger.turtle").write_bytes(b"\xff" * 100)
    assert lolm.main(["lolm", "dashboard", str(storage.parent)]) == 2
    said = capsys.readouterr().err
    assert f"{storage}" in said
    assert "Traceback" not in said
    assert list((tmp_path / "mine").iterdir()) == []
