"""One run of a suite, started by ``lolm compare``: ``python -m lolm_plugin.commands.suite_run FOLDER``."""

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from lolm_plugin.commands import train
from lolm_plugin.streams import exit_code
from lolm_plugin.suites import run_process


def _stop_with_starter() -> None:
    """Stop this process when its parent ends. Then the pipe of its standard input is closed."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: this thread would hold its lock when Python exits
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _stop_with_starter()
    sys.exit(exit_code(partial(run_process.main, Path(sys.argv[1]), train.main)))
