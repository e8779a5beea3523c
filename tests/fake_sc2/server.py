"""The process that stands in for the game: listens on loopback, serves one client and ends with it."""

import argparse
import ipaddress
import os
import socket
import threading
import time
import traceback

from .faults import Fault

IDLE_LIMIT = 900.0  # seconds without a request after which nobody can be waiting any more
CHECK_EVERY = 1.0  # seconds


def main() -> None:
    """Run as ``SC2_x64 -listen 127.0.0.1 -port N``; the game's other options are taken and ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-listen", default="127.0.0.1")
    parser.add_argument("-port", type=int, required=True)
    options, _ = parser.parse_known_args()
    if not ipaddress.ip_address(options.listen).is_loopback:
        parser.error(f"-listen {options.listen}: the fake game listens on loopback only")
    parent = os.getppid()
    fault = Fault.from_environment(os.environ)
    # Listening comes first and the slow imports after it: pysc2 tries once a second, and what connects now waits.
    listener = socket.create_server((options.listen, options.port))
    _Server(listener, fault).run(parent)


class _Server:
    def __init__(self, listener: socket.socket, fault: Fault | None) -> None:
        self._listener, self._fault = listener, fault
        self._over = threading.Event()
        self._heard = time.monotonic()

    def run(self, parent: int) -> None:
        """Serve until the client is gone or has quit, the parent is gone, or nothing has been asked for long."""
        from websockets.sync.server import serve

        # Clients answer pings only while they read, and one may train for minutes between two steps.
        quiet = {"compression": None, "ping_interval": None, "max_size": None}
        server = serve(self._converse, sock=self._listener, process_request=_refuse_other_paths, **quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while not self._over.wait(CHECK_EVERY):
            if os.getppid() != parent or time.monotonic() - self._heard > IDLE_LIMIT:
                break
        # A hanging game never lets its threads end, and nothing is left to be saved.
        os._exit(0)

    def _converse(self, connection) -> None:
        from s2clientprotocol import sc2api_pb2
        from websockets.exceptions import ConnectionClosed

        from .session import Session

        session = Session(self._fault)
        try:
            while session.status != sc2api_pb2.quit:
                # pysc2 sends its bytes as text.
                request = sc2api_pb2.Request.FromString(connection.recv(decode=False))
                self._heard = time.monotonic()
                connection.send(session.answer(request).SerializeToString())
        except ConnectionClosed:
            pass
        except Exception:  # the process is about to end: nobody else would tell
            traceback.print_exc()
        finally:
            self._over.set()


def _refuse_other_paths(connection, request):
    return None if request.path == "/sc2api" else connection.respond(404, "only /sc2api is served\n")
