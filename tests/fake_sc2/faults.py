"""Breaking the game on purpose, as two environment variables ask for.

``FAKE_SC2_FAULT=crash:N`` ends the process at game loop N of its life, counted over all its battles;
``hang:N`` stops it from answering from there on. With ``FAKE_SC2_FAULT_ONCE=FILE`` only the first process to
get there fails, and leaves FILE behind: the game that takes its place is healthy, and so are all others.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("crash", "hang")
CRASHED = 70  # the exit status


@dataclass(frozen=True)
class Fault:
    kind: str
    loop: int
    once: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Fault | None":
        """What the variables ask for.

        Raises:
            ValueError: FAKE_SC2_FAULT is set to something else.
        """
        text = environment.get("FAKE_SC2_FAULT")
        if not text:
            return None
        kind, _, loop = text.partition(":")
        if kind not in KINDS or not loop.isdecimal():
            raise ValueError(f"FAKE_SC2_FAULT={text}: set it to crash:N or hang:N, N a game loop.")
        once = environment.get("FAKE_SC2_FAULT_ONCE")
        return cls(kind, int(loop), Path(once) if once else None)

    def check(self, loop: int) -> None:
        """Fail, and never return, if that is the game loop of the process to fail at."""
        if loop != self.loop or not self._first():
            return
        if self.kind == "crash":
            os._exit(CRASHED)
        while True:
            time.sleep(3600)

    def _first(self) -> bool:
        if self.once is None:
            return True
        try:
            # Of several processes that get here at once, one creates the file.
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
