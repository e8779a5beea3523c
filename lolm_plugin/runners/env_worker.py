"""The inside of an environment's process: builds it and executes one command after the other.

Imported by every worker, so it must stay light: neither torch nor anything that brings it.
"""

import faulthandler
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners import messages

# Kinds of messages to the parent: (kind, content).
ANSWER, REFUSED, RAISED = "answer", "refused", "raised"


def observe(env: Any) -> dict[str, Any]:
    """What an environment shows before a step: ``state [state]``, ``avail_actions`` and ``obs [agents, ...]``."""
    return {"state": env.get_state(), "avail_actions": env.get_avail_actions(), "obs": env.get_obs()}


def execute(env: Any, command: str, data: Any) -> Any:
    """The answer of an environment to a command.

    ``step`` (``data``: the actions ``[agents]``) gives ``reward terminated truncated over info`` and, as ``reset``
    does, what is ``seen`` then; the others are methods of the environment of the same name.
    """
    match command:
        case "step":
            _, reward, terminated, truncated, info = env.step(data)
            end = {"terminated": bool(terminated), "truncated": bool(truncated), "over": bool(terminated or truncated)}
            return {"reward": reward, **end, "info": info, "seen": observe(env)}
        case "reset":
            env.reset()
            return observe(env)
        case "get_env_info" | "get_stats" | "render" | "save_replay":
            return getattr(env, command)()
    raise NotImplementedError(command)


def serve(connection: Connection, lifeline: Connection, make_env: bytes, environ: Mapping[str, str], seed: int) -> None:
    """Runs an environment until it is told to ``close``.

    ``make_env`` is a cloudpickled constructor: read here, what goes wrong with it is reported like any error.
    ``environ`` are the parent's environment variables, which a fork server saw long ago; ``seed`` is for the
    generators of Python and numpy that no environment owns.

    The first message says that the environment is built; each later one answers a command. A ConfigError
    or another exception is sent as such and ends the process.
    """
    # The leader of a session of its own: Ctrl-C does not reach it, and whatever it starts can be killed with it.
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # A scheduler warns every process of a job before its time is over. A worker that died of it would be restarted
        # in the minute in which the run has to save.
        signal.signal(number, signal.SIG_IGN)
    for end in (connection, lifeline):
        os.set_inheritable(end.fileno(), False)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(Exception):  # stderr may be closed
        faulthandler.enable()  # says where a crash in native code was
    os.environ.update(environ)
    try:
        import cloudpickle
        import numpy as np

        random.seed(seed)
        np.random.seed(seed % 2**32)
        env = cloudpickle.loads(make_env)()
        _tell(connection, ANSWER, None)
        for command, data in _requests(connection):
            _tell(connection, ANSWER, execute(env, command, data))
    except ConfigError as error:
        _tell(connection, REFUSED, str(error))
    except Exception as error:
        summary = traceback.format_exception_only(error)[-1].splitlines()[0]
        _tell(connection, RAISED, (summary, traceback.format_exc()))
    else:
        env.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    _end_group()


def _requests(connection: Connection) -> Iterator[tuple[str, Any]]:
    try:
        while (request := connection.recv())[0] != "close":
            yield request
    except (EOFError, OSError):  # the parent is gone
        _end_group()


def _tell(connection: Connection, kind: str, content: Any) -> None:
    try:
        messages.send(connection, (kind, content))
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        _end_group()


def _die_with_parent(lifeline: Connection) -> None:
    """Ends everything when the parent ends, even if the environment never returns."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    _end_group()


def _end_group() -> None:
    """Kills this process and all it started: nothing must be left that only this process knows of."""
    os.killpg(0, signal.SIGKILL)
