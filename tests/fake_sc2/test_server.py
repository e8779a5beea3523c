"""Lifetime of the game's process: it always ends when its client ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = """
import subprocess, sys
print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""


CHANGED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
change = sys.argv.pop(1)
from websockets.sync.server import serve
from fake_sc2 import server
exec(change)
server.main()
"""


@pytest.fixture
def command(game_folder):
    """Return the command line of pysc2, including options that the fake game ignores."""
    executable = str(game_folder / "Versions" / "Base75689" / "SC2_x64")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    return [executable, "-listen", "127.0.0.1", "-port", port, "-dataDir", "x/", "-tempDir", "y/", "-verbose"]


@pytest.fixture
def start(command):
    processes = []

    def run(change=None, **environment):
        """Start the game. ``change`` is Python code to run first; it may use ``server`` and ``serve``."""
        program = command[:1]
        if change is not None:
            program = [sys.executable, "-c", CHANGED, str(Path(__file__).parents[1]), change]
        processes.append(subprocess.Popen([*program, *command[1:]], env={**os.environ, **environment}))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


def connect(command, path="/sc2api"):
    import websocket

    url = f"ws://127.0.0.1:{command[4]}{path}"
    while True:
        try:
            return websocket.create_connection(url, timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.05)


def ask(connection, **request):
    from s2clientprotocol import sc2api_pb2

    connection.send(sc2api_pb2.Request(**request).SerializeToString())
    return sc2api_pb2.Response.FromString(connection.recv())


def test_it_ends_when_the_client_disconnects(command, start):
    process = start()
    connection = connect(command)
    assert ask(connection, ping={}).ping.game_version == "4.10.0"
    connection.close()
    assert process.wait(60) == 0


def test_it_ends_when_the_client_vanishes(command, start):
    process = start()
    connection = connect(command)
    ask(connection, ping={})
    connection.sock.close()  # without a closing handshake
    assert process.wait(60) == 0


def test_it_ends_when_the_client_quits(command, start):
    from s2clientprotocol import sc2api_pb2

    process = start()
    assert ask(connect(command), quit={}).status == sc2api_pb2.quit
    assert process.wait(60) == 0


def test_it_ends_with_its_parent(command):
    import websocket

    launcher = subprocess.Popen(
        [sys.executable, "-c", START, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(launcher.stdout.readline())
    connection = connect(command)  # kept open
    assert ask(connection, ping={}).HasField("ping")
    launcher.kill()
    launcher.communicate()
    try:
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            connection.recv()
    except websocket.WebSocketTimeoutException:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the game outlived the process that had started it")


def test_it_ends_after_a_long_time_without_requests(command, start):
    process = start("server.IDLE_LIMIT = 0.5")
    connection = connect(command)  # kept open
    ask(connection, ping={})
    assert process.wait(60) == 0
    connection.close()


def test_a_client_may_be_silent_for_a_long_time(command, start):
    # With pings, a client that does not answer them in time would be disconnected.
    start("serve.__kwdefaults__.update(ping_interval=0.1, ping_timeout=0.1)")
    connection = connect(command)
    ask(connection, ping={})
    time.sleep(1.5)
    assert ask(connection, ping={}).HasField("ping")


def test_only_one_path_is_served(command, start):
    import websocket

    start()
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        connect(command, "/other")
    assert ask(connect(command), ping={}).HasField("ping")


def test_it_listens_only_on_loopback(command, start):
    command[2] = "0.0.0.0"
    assert start().wait(60) != 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(command[4])))


def in_game(connection):
    from s2clientprotocol import sc2api_pb2

    setup = [{"type": sc2api_pb2.Participant}, {"type": sc2api_pb2.Computer}]
    ask(connection, create_game={"local_map": {"map_path": "SMAC_Maps/3m.SC2Map"}, "player_setup": setup})
    ask(connection, join_game={"race": 1})
    return connection


def test_a_hanging_game_does_not_answer_but_can_be_terminated(command, start):
    import websocket

    process = start(FAKE_SC2_FAULT="hang:9")
    connection = in_game(connect(command))
    assert ask(connection, step={"count": 8}).step.simulation_loop == 8
    connection.settimeout(1.0)
    with pytest.raises(websocket.WebSocketTimeoutException):
        ask(connection, step={"count": 8})
    assert process.poll() is None
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM


def test_a_crash_has_its_exit_status(command, start):
    process = start(FAKE_SC2_FAULT="crash:9")
    connection = in_game(connect(command))
    with pytest.raises(Exception, match=r"closed|lost|reset"):
        ask(connection, step={"count": 9})
    assert process.wait(60) == 70


def test_an_invalid_fault_fails_at_the_start(start):
    assert start(FAKE_SC2_FAULT="explode:9").wait(60) not in (0, 70)
