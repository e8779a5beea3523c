"""Crashes and hangs of the game on purpose, set by two environment variables.

``FAKE_SC2_FAULT=crash:N`` ends the process at game loop N, counted over all its battles. With ``hang:N`` it stops
answering at that loop. With ``FAKE_SC2_FAULT_ONCE=FILE`` only the first process that reaches the loop fails. It creates
FILE, so its replacement and all other processes do not fail.
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
        """Return the fault that the variables set, or None.

        Raises:
            ValueError: FAKE_SC2_FAULT has another form.
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
        """Crash or hang, without returning, if ``loop`` is the game loop of the fault."""
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
            # If several processes get here at the same time, only one creates the file.
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
