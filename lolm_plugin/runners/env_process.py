"""One environment in a process of its own: the process, its parent's side, and the messages between them.

Every worker imports this file, so it must stay light: neither torch nor anything that imports it.
"""

import faulthandler
import multiprocessing
import os
import pickle
import random
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from typing import Any

from lolm_plugin.errors import ConfigError

CLOSE_TIMEOUT = 5.0  # seconds; environments that take longer to close are killed
LONGEST_WAIT = 3600.0  # seconds of a single wait; the operating system does not take any number
NOT_YET = object()  # what ``EnvProcess.receive`` returns until the answer is there

# Kinds of messages to the parent: (kind, content).
ANSWER, REFUSED, RAISED = "answer", "refused", "raised"

_LENGTH = struct.Struct("!Q")
_READ_SIZE = 2**20  # bytes read at once; sockets hand over less


# --- Inside the process


def observe(env: Any) -> dict[str, Any]:
    """Return what an environment shows before a step: ``state [state]``, ``avail_actions``, ``obs [agents, ...]``."""
    return {"state": env.get_state(), "avail_actions": env.get_avail_actions(), "obs": env.get_obs()}


def execute(env: Any, command: str, data: Any) -> Any:
    """Carry out a command and return the environment's answer.

    ``step`` (``data``: the actions ``[agents]``) returns ``reward terminated truncated over info`` and under ``seen``
    what ``observe`` shows after it, ``reset`` the latter alone. The others are the environment's methods of that name.
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
    """Build an environment and answer commands until ``close``.

    The first message says that the environment is built; each later one answers a command. A ConfigError or another
    exception is sent as such and ends the process.

    Args:
        connection: commands come in, answers go out.
        lifeline: closed by the end of the parent.
        make_env: a cloudpickled constructor; unpickled here, so that its errors are reported like any other.
        environ: the parent's environment variables now; the fork server has those of its start.
        seed: for Python's and NumPy's global generators, which some environments draw from.
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
        faulthandler.enable()  # prints where a crash in native code was
    os.environ.update(environ)
    try:
        import cloudpickle
        import numpy as np

        random.seed(seed)
        np.random.seed(seed % 2**32)
        env = cloudpickle.loads(make_env)()
        _answer(connection, ANSWER, None)
        for command, data in _requests(connection):
            _answer(connection, ANSWER, execute(env, command, data))
    except ConfigError as error:
        _answer(connection, REFUSED, str(error))
    except Exception as error:
        summary = traceback.format_exception_only(error)[-1].splitlines()[0]
        _answer(connection, RAISED, (summary, traceback.format_exc()))
    else:
        env.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    _kill_group()


def _requests(connection: Connection) -> Iterator[tuple[str, Any]]:
    try:
        while (request := connection.recv())[0] != "close":
            yield request
    except (EOFError, OSError):  # the parent is gone
        _kill_group()


def _answer(connection: Connection, kind: str, content: Any) -> None:
    packed = pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL)  # first, so that half a message is never sent
    left = memoryview(_LENGTH.pack(len(packed)) + packed)
    try:
        while left:
            left = left[os.write(connection.fileno(), left) :]
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        _kill_group()


def _die_with_parent(lifeline: Connection) -> None:
    """Kill everything when the parent ends, even if the environment never returns."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    _kill_group()


def _kill_group() -> None:
    """Kill this process and all it started, of which no other process knows."""
    os.killpg(0, signal.SIGKILL)


# --- The parent's side


class WorkerFault(Exception):
    """What a worker did instead of answering, as the end of a sentence.

    ``details`` is its traceback and ``raised`` the exception in one line, both empty if it raised none.
    """

    def __init__(self, what: str, details: str = "", raised: str = "") -> None:
        super().__init__(what)
        self.details = details
        self.raised = raised


class Inbox:
    """Messages that arrive at one end of a pipe, each kept until all of it is there.

    ``Connection.recv`` blocks until a whole message has arrived: a process that stops in the middle of a large answer
    would hang its parent for good.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bytes = bytearray()
        os.set_blocking(connection.fileno(), False)

    def read(self) -> bytes | None:
        """Return the first whole message, pickled, or None while there is none. Never waits.

        Raises:
            EOFError: the other end is closed and no whole message is left.
        """
        while (packed := self._take_message()) is None:
            try:
                arrived = os.read(self._connection.fileno(), _READ_SIZE)
            except BlockingIOError:
                return None
            if not arrived:
                raise EOFError
            self._bytes += arrived
        return packed

    def _take_message(self) -> bytes | None:
        start = _LENGTH.size
        if len(self._bytes) < start:
            return None
        end = start + _LENGTH.unpack(self._bytes[:start])[0]
        if len(self._bytes) < end:
            return None
        packed = bytes(self._bytes[start:end])
        del self._bytes[:end]
        return packed


class EnvProcess:
    """One environment in a process of its own, which leads its own session and dies with this process.

    ``seed`` is for Python's and NumPy's global generators. The environment is still being built when this returns:
    ``receive`` returns None once it is there.
    """

    def __init__(self, name: str, make_env: Callable[[], Any], seed: int = 0) -> None:
        import cloudpickle

        # Never a copy of this process, which may hold threads, a GPU and a language model.
        context = multiprocessing.get_context("forkserver")
        self.connection, remote = context.Pipe()
        # Nothing is ever sent here: its other end is closed when this process is gone.
        lifeline, self._lifeline = context.Pipe(duplex=False)
        content = (cloudpickle.dumps(make_env), dict(os.environ), seed)
        self.process = context.Process(name=name, target=serve, args=(remote, lifeline, *content), daemon=True)
        self.process.start()
        remote.close()
        lifeline.close()
        self._inbox = Inbox(self.connection)
        self.owner = os.getpid()
        self.doing = "while it was built"  # the last command, for the sentence of a fault
        self._steps = 0

    def send(self, command: str, data: Any = None) -> None:
        """Send a command. A dead worker is reported by ``receive``."""
        self._steps = {"reset": 0, "step": self._steps + 1}.get(command, self._steps)
        self.doing = f"at step {self._steps}" if command == "step" else f"in {command}"
        with suppress(OSError):
            self.connection.send((command, data))

    def receive(self) -> Any:
        """Return the answer to the last command, or NOT_YET until all of it has arrived. Never waits.

        Raises:
            WorkerFault: there will be no answer.
            ConfigError: the environment refuses what the user set.
        """
        ended = not self.process.is_alive()  # asked first, so that everything it wrote is there to be read
        try:
            packed = self._inbox.read()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if packed is None:
            if ended:  # a child of the worker may hold the other end
                raise self._death()
            return NOT_YET
        try:
            kind, content = pickle.loads(packed)
        except Exception as error:  # whatever unpickling may raise
            raise WorkerFault(f"gave an answer {self.doing} that cannot be read: {error!r}") from error
        if kind == REFUSED:
            raise ConfigError(content)
        if kind == RAISED:
            summary, details = content
            raise WorkerFault(f"raised {summary} {self.doing}", details, raised=summary)
        return content

    def _death(self) -> WorkerFault:
        self.process.join(CLOSE_TIMEOUT)
        return WorkerFault(f"died {self.doing} (exit code {self.process.exitcode})")

    def kill(self) -> None:
        """Kill the process and everything it started, at once; doing so again does nothing."""
        if self.connection.closed:
            return
        assert self.process.pid is not None  # started
        # The group outlives its leader as long as anything is in it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # it may not have come to lead a group yet
        self.process.join(CLOSE_TIMEOUT)
        self.connection.close()
        self._lifeline.close()


def answers(workers: Mapping[int, EnvProcess], timeout: float) -> Iterator[tuple[int, Any | WorkerFault]]:
    """Yield the answers of ``workers``, with their index, as they arrive within ``timeout`` seconds from now.

    A fault is yielded in place of an answer. Raises ConfigError as ``EnvProcess.receive`` does.
    """
    pending = dict(workers)
    deadline = time.monotonic() + timeout
    while pending:
        ends: dict[Any, int] = {worker.connection: i for i, worker in pending.items()}
        ends |= {worker.process.sentinel: i for i, worker in pending.items()}
        left = deadline - time.monotonic()
        ready = {ends[end] for end in connections.wait(list(ends), min(max(0.0, left), LONGEST_WAIT))}
        for i in sorted(ready):
            try:
                answer = pending[i].receive()
            except WorkerFault as fault:
                answer = fault
            if answer is not NOT_YET:
                del pending[i]
                yield i, answer
        if left <= 0:  # also while parts of an answer keep arriving
            for i, worker in pending.items():
                yield i, WorkerFault(f"did not answer {worker.doing} within worker_timeout={timeout:g} seconds")
            return


def close(workers: Sequence[EnvProcess]) -> None:
    """Let the environments close, all at once, then kill what is left of their processes."""
    # A forked copy of this process must leave them alone, whatever it does when it ends.
    workers = [worker for worker in workers if worker.owner == os.getpid()]
    for worker in workers:
        worker.send("close")
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
