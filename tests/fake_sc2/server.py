"""Process of the fake game: it listens on loopback, serves one client and ends with it."""

import argparse
import ipaddress
import os
import socket
import threading
import time
import traceback

from .faults import Fault

IDLE_LIMIT = 900.0  # seconds without a request after which the process ends
CHECK_EVERY = 1.0  # seconds


def main() -> None:
    """Run as ``SC2_x64 -listen 127.0.0.1 -port N``. Other options of the game are ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-listen", default="127.0.0.1")
    parser.add_argument("-port", type=int, required=True)
    options, _ = parser.parse_known_args()
    if not ipaddress.ip_address(options.listen).is_loopback:
        parser.error(f"-listen {options.listen}: the fake game listens on loopback only")
    parent = os.getppid()
    fault = Fault.from_environment(os.environ)
    # Listen before the slow imports: pysc2 tries to connect once a second, and an early connection waits.
    listener = socket.create_server((options.listen, options.port))
    _Server(listener, fault).run(parent)


class _Server:
    def __init__(self, listener: socket.socket, fault: Fault | None) -> None:
        self._listener, self._fault = listener, fault
        self._over = threading.Event()
        self._heard = time.monotonic()

    def run(self, parent: int) -> None:
        """Serve until the client disconnects or quits, the parent ends, or no request comes for ``IDLE_LIMIT``."""
        from websockets.sync.server import serve

        # No pings: a client answers them only while it reads, and it may train for minutes between two steps.
        quiet = {"compression": None, "ping_interval": None, "max_size": None}
        server = serve(self._converse, sock=self._listener, process_request=_refuse_other_paths, **quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while not self._over.wait(CHECK_EVERY):
            if os.getppid() != parent or time.monotonic() - self._heard > IDLE_LIMIT:
                break
        # _exit, because the threads of a hanging game never end. There is nothing to save.
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
        except Exception:  # the process is about to end, so this is the only report
            traceback.print_exc()
        finally:
            self._over.set()


def _refuse_other_paths(connection, request):
    return None if request.path == "/sc2api" else connection.respond(404, "only /sc2api is served\n")
