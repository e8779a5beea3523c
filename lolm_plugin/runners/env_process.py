"""An environment's process seen from its parent: started, asked, found dead or silent, killed with all it started."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection as connections
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners.env_worker import RAISED, REFUSED, serve
from lolm_plugin.runners.messages import Inbox

# How long environments may take to close before they are killed, in seconds.
CLOSE_TIMEOUT = 5.0

# Of a single wait, in seconds: the operating system does not take any number.
LONGEST_WAIT = 3600.0

# What ``receive`` returns while the answer is not there.
NOT_YET = object()


class WorkerFault(Exception):
    """What a worker did instead of answering, as the end of a sentence.

    ``details`` is its traceback and ``raised`` the exception in one line, both empty if it raised none.
    """

    def __init__(self, what: str, details: str = "", raised: str = "") -> None:
        super().__init__(what)
        self.details = details
        self.raised = raised


class EnvProcess:
    """One environment in a process of its own, which leads its own session and dies with this process.

    ``seed`` is for Python's and numpy's own generators, which some environments draw from. The environment is not
    built yet when this returns: ``receive`` says so once it is, with None.
    """

    def __init__(self, name: str, make_env: Callable[[], Any], seed: int = 0) -> None:
        import cloudpickle

        context = _context()
        self.connection, remote = context.Pipe()
        # Nothing is ever sent here: its end at the other side means that this process is gone.
        lifeline, self._lifeline = context.Pipe(duplex=False)
        content = (cloudpickle.dumps(make_env), dict(os.environ), seed)
        self.process = context.Process(name=name, target=serve, args=(remote, lifeline, *content), daemon=True)
        self.process.start()
        remote.close()
        lifeline.close()
        self._inbox = Inbox(self.connection)
        self.owner = os.getpid()
        self.place = "while it was built"  # what it was doing when last heard of
        self._steps = 0

    def send(self, command: str, data: Any = None) -> None:
        """Sends a command; ``receive`` is what reports a dead worker."""
        self._steps = {"reset": 0, "step": self._steps + 1}.get(command, self._steps)
        self.place = f"at step {self._steps}" if command == "step" else f"in {command}"
        with suppress(OSError):
            self.connection.send((command, data))

    def receive(self) -> Any:
        """Return the answer to the last command, or NOT_YET until all of it has arrived. Never waits.

        Raises WorkerFault when there will be none, ConfigError when the environment refuses what the user set.
        """
        ended = not self.process.is_alive()  # asked first, so that all it ever wrote is there to be read
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
            raise WorkerFault(f"gave an answer {self.place} that cannot be read: {error!r}") from error
        if kind == REFUSED:
            raise ConfigError(content)
        if kind == RAISED:
            summary, details = content
            raise WorkerFault(f"raised {summary} {self.place}", details, raised=summary)
        return content

    def _death(self) -> WorkerFault:
        self.process.join(CLOSE_TIMEOUT)
        return WorkerFault(f"died {self.place} (exit code {self.process.exitcode})")

    def kill(self) -> None:
        """Ends the process and everything it started, at once; doing so again does nothing."""
        if self.connection.closed:
            return
        # The group outlives its leader as long as anything is in it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # it may not have come to lead a group yet
        self.process.join(CLOSE_TIMEOUT)
        self.connection.close()
        self._lifeline.close()


def answers(workers: Mapping[int, EnvProcess], timeout: float) -> Iterator[tuple[int, Any | WorkerFault]]:
    """The answers of ``workers`` as they come, by their index; each within ``timeout`` seconds from now.

    A fault is yielded in place of an answer. Raises ConfigError as ``EnvProcess.receive`` does.
    """
    pending = dict(workers)
    deadline = time.monotonic() + timeout
    while pending:
        ends = {worker.connection: i for i, worker in pending.items()}
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
        if left <= 0:  # also while parts of an answer keep coming
            for i, worker in pending.items():
                yield i, WorkerFault(f"did not answer {worker.place} within worker_timeout={timeout:g} seconds")
            return


def close(workers: Sequence[EnvProcess]) -> None:
    """Lets the environments close, all at once, and then kills what is left of their processes."""
    # A forked copy of this process must leave them alone, whatever it does when it ends.
    workers = [worker for worker in workers if worker.owner == os.getpid()]
    for worker in workers:
        worker.send("close")
    deadline = time.monotonic() + CLOSE_TIMEOUT
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()


def _context() -> Any:
    """How processes are started: never as a copy of this one, which may hold threads, a GPU and a language model."""
    return multiprocessing.get_context("forkserver")
