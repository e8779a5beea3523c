"""Worker process with one environment: the worker's side, the parent's side, and the messages between them.

Every worker imports this file, so it must load fast: it must not import torch, directly or indirectly.
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
LONGEST_WAIT = 3600.0  # seconds of a single wait; operating systems reject very large timeouts
PENDING = object()  # returned by ``EnvProcess.receive`` until the answer has arrived

# Kinds of messages to the parent: (kind, content).
ANSWER, REFUSED, RAISED = "answer", "refused", "raised"

_LENGTH = struct.Struct("!Q")
_READ_SIZE = 2**20  # bytes per read; sockets return less


# --- The worker's side


def observe(env: Any) -> dict[str, Any]:
    """Return what agents and critic see before a step: ``state [state]``, ``avail_actions``, ``obs [agents, ...]``."""
    return {"state": env.get_state(), "avail_actions": env.get_avail_actions(), "obs": env.get_obs()}


def execute(env: Any, command: str, data: Any) -> Any:
    """Execute a command and return the environment's answer.

    Args:
        env: the environment.
        command: ``step``, ``reset``, or a method: ``get_env_info``, ``get_stats``, ``render`` or ``save_replay``.
        data: for ``step``, the actions ``[agents]``.

    Returns:
        For ``step`` a dict with the keys ``reward``, ``terminated``, ``truncated``, ``over`` (either of the two),
        ``info`` and ``seen`` (the result of ``observe`` after the step). For ``reset`` the result of ``observe``. For a
        method, its return value.
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

    The first message reports that the environment is built. Each later message answers a command. An exception is sent
    to the parent and ends the process.

    Args:
        connection: receives commands, sends answers.
        lifeline: a pipe that is closed when the parent ends.
        make_env: a cloudpickled constructor. It is unpickled here, so that its errors are reported like any other.
        environ: the parent's current environment variables. The fork server has those of its start.
        seed: for Python's and NumPy's global generators, from which some environments draw.
    """
    # A separate session: Ctrl-C does not reach the worker, and all processes that it starts can be killed with it.
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # A scheduler sends these signals to every process of a job before its time limit. A worker that died of one
        # would be restarted while the run has to save its checkpoint.
        signal.signal(number, signal.SIG_IGN)
    for end in (connection, lifeline):
        os.set_inheritable(end.fileno(), False)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    with suppress(Exception):  # stderr may be closed
        faulthandler.enable()  # prints a traceback for a crash in native code
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
    packed = pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL)  # first: no partial message is sent
    left = memoryview(_LENGTH.pack(len(packed)) + packed)
    try:
        while left:
            left = left[os.write(connection.fileno(), left) :]
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone
        _kill_group()


def _die_with_parent(lifeline: Connection) -> None:
    """Kill this process group when the parent ends, even if the environment never returns."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    _kill_group()


def _kill_group() -> None:
    """Kill this process and all processes that it started."""
    os.killpg(0, signal.SIGKILL)


# --- The parent's side


class WorkerFault(Exception):
    """A worker's failure to answer. The message is a predicate, such as "died at step 3 (exit code -9)".

    ``details`` is the worker's traceback and ``raised`` its exception in one line. Both are empty without an exception.
    """

    def __init__(self, what: str, details: str = "", raised: str = "") -> None:
        super().__init__(what)
        self.details = details
        self.raised = raised


class Inbox:
    """Non-blocking reader of messages from a pipe. It buffers a message until it is complete.

    ``Connection.recv`` blocks until a whole message has arrived: a worker that stops in the middle of a large answer
    would block its parent forever.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bytes = bytearray()
        os.set_blocking(connection.fileno(), False)

    def read(self) -> bytes | None:
        """Return the next complete message, pickled, or None if there is none yet. Never waits.

        Raises:
            EOFError: the other end is closed and no complete message is left.
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
    """One environment in a separate process, with a separate session. It ends when this process ends.

    The constructor does not wait until the environment is built: ``receive`` returns None once it is.

    Args:
        name: name of the process.
        make_env: the environment's constructor; it must be picklable by cloudpickle.
        seed: for Python's and NumPy's global generators in the worker.
    """

    def __init__(self, name: str, make_env: Callable[[], Any], seed: int = 0) -> None:
        import cloudpickle

        # Not ``fork``: this process may have threads, a GPU context and a language model.
        context = multiprocessing.get_context("forkserver")
        self.connection, remote = context.Pipe()
        # Nothing is sent through this pipe. Its other end is closed when this process ends.
        lifeline, self._lifeline = context.Pipe(duplex=False)
        content = (cloudpickle.dumps(make_env), dict(os.environ), seed)
        self.process = context.Process(name=name, target=serve, args=(remote, lifeline, *content), daemon=True)
        self.process.start()
        remote.close()
        lifeline.close()
        self._inbox = Inbox(self.connection)
        self.owner = os.getpid()
        self.doing = "while it was built"  # the last command, for the message of a fault
        self._steps = 0

    def send(self, command: str, data: Any = None) -> None:
        """Send a command. A dead worker is reported by ``receive``."""
        self._steps = {"reset": 0, "step": self._steps + 1}.get(command, self._steps)
        self.doing = f"at step {self._steps}" if command == "step" else f"in {command}"
        with suppress(OSError):
            self.connection.send((command, data))

    def receive(self) -> Any:
        """Return the answer to the last command, or PENDING until all of it has arrived. Never waits.

        Raises:
            WorkerFault: the worker died, raised, or sent an unreadable answer.
            ConfigError: the environment rejects a setting.
        """
        ended = not self.process.is_alive()  # before reading: all that it wrote can then be read
        try:
            packed = self._inbox.read()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if packed is None:
            if ended:  # a child of the worker may keep the pipe open
                raise self._death()
            return PENDING
        try:
            kind, content = pickle.loads(packed)
        except Exception as error:  # unpickling may raise any exception
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
        """Kill the process and all processes that it started. A second call does nothing."""
        if self.connection.closed:
            return
        assert self.process.pid is not None  # started
        # The process group exists as long as any process is in it, even without its leader.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # it may not have called setsid yet
        self.process.join(CLOSE_TIMEOUT)
        self.connection.close()
        self._lifeline.close()


def answers(workers: Mapping[int, EnvProcess], timeout: float) -> Iterator[tuple[int, Any | WorkerFault]]:
    """Yield ``(index, answer)`` for each of ``workers`` in the order of arrival, within ``timeout`` seconds.

    A worker without an answer yields its WorkerFault instead.

    Raises:
        ConfigError: as ``EnvProcess.receive``.
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
            if answer is not PENDING:
                del pending[i]
                yield i, answer
        if left <= 0:  # even if parts of an answer are still arriving
            for i, worker in pending.items():
                yield i, WorkerFault(f"did not answer {worker.doing} within worker_timeout={timeout:g} seconds")
            return


def close(workers: Sequence[EnvProcess]) -> None:
    """Close all environments in parallel, then kill their remaining processes."""
    # A forked copy of this process must not close the workers when it ends.
    workers = [worker for worker in workers if worker.owner == os.getpid()]
    for worker in workers:
        worker.send("close")
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
