"""Messages from an environment's process, read without ever waiting for the rest of one.

``Connection.recv`` blocks until a whole message is there: a process that stops in the middle of a large answer would
hang its parent for good. Imported by every worker, so it must stay light.
"""

import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any

_LENGTH = struct.Struct("!Q")
_PART = 2**20  # bytes read at once; sockets hand over less


def send(connection: Connection, content: Any) -> None:
    """Write a message for an ``Inbox``; blocks while the other side does not read. Raises OSError when it is gone."""
    packed = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)  # first, so that half a message is never sent
    left = memoryview(_LENGTH.pack(len(packed)) + packed)
    while left:
        left = left[os.write(connection.fileno(), left) :]


class Inbox:
    """The messages that arrive at one end of a pipe, each kept until all of it is there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bytes = bytearray()
        os.set_blocking(connection.fileno(), False)

    def read(self) -> bytes | None:
        """Take in what has arrived; return the first whole message, pickled, or None while there is none.

        Raises EOFError once the other end is closed and no whole message is left.
        """
        while (packed := self._whole()) is None:
            try:
                part = os.read(self._connection.fileno(), _PART)
            except BlockingIOError:
                return None
            if not part:
                raise EOFError
            self._bytes += part
        return packed

    def _whole(self) -> bytes | None:
        start = _LENGTH.size
        if len(self._bytes) < start:
            return None
        end = start + _LENGTH.unpack(self._bytes[:start])[0]
        if len(self._bytes) < end:
            return None
        packed = bytes(self._bytes[start:end])
        del self._bytes[:end]
        return packed
