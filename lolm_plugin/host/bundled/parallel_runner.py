"""One process per environment, stepped together."""

import signal
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.bundled import find
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.randomness import environment_seed
from lolm_plugin.runners.env_worker import execute
from lolm_plugin.runners.lockstep import LockstepRunner

# How long a worker may take to close its environment before it is killed, in seconds.
CLOSE_TIMEOUT = 5.0
WORKER_TIMEOUT = 300.0  # seconds, where ``args`` has no worker_timeout: the host's own algorithms


class ParallelRunner(LockstepRunner):
    """Plays ``batch_size_run`` copies of ``args.env``, one process each, with seeds from ``environment_seed``.

    Raises ConfigError when an environment refuses its arguments, RuntimeError when a worker dies or does not answer
    within ``args.worker_timeout`` seconds.
    """

    def __init__(self, args: Namespace, logger: Any) -> None:
        super().__init__(args, logger, EpisodeBatch)
        make_env = find("env", args.env)
        shared = {
            **args.env_args,
            "common_reward": args.common_reward,
            "reward_scalarisation": args.reward_scalarisation,
        }
        self.workers: list[Worker] = []
        for i in range(self.batch_size):
            env_args = {**shared, "seed": environment_seed(args.env_args["seed"], i)}
            self.workers.append(Worker(i, partial(make_env, **env_args), self.workers))
        try:
            self.env_info = self.ask("get_env_info", dict.fromkeys(range(self.batch_size)))[0]
        except BaseException:
            self.close_env()
            raise
        self.episode_limit = self.env_info["episode_limit"]

    def get_env_info(self) -> dict[str, Any]:
        """Sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env_info

    def save_replay(self) -> None:
        """Asks the first environment to save its replay."""
        self.ask("save_replay", {0: None})

    def close_env(self) -> None:
        """Closes every environment and ends its process."""
        for worker in self.workers:
            worker.send("close")
        for worker in self.workers:
            worker.end()

    def run(self, test_mode: bool = False) -> EpisodeBatch:
        """Plays one episode in each environment, as often as it is asked to."""
        return self.play(test_mode)

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Answers to a command; see ``LockstepRunner.ask``. RuntimeError when a worker has died."""
        for i, value in data.items():
            self.workers[i].send(command, value)
        timeout = getattr(self.args, "worker_timeout", WORKER_TIMEOUT)
        return {i: self.workers[i].receive(timeout) for i in data}


class Worker:
    """The parent's side of one environment process."""

    def __init__(self, index: int, make_env: Callable[[], Any], started: Sequence["Worker"]) -> None:
        self.index = index
        self.connection, remote = Pipe()
        # Ends that a forked child inherits and must not keep: with them open, nobody notices a death.
        inherited = [worker.connection for worker in started] + [self.connection]
        self.process = Process(target=_serve, args=(remote, inherited, Portable(make_env)), daemon=True)
        self.process.start()
        remote.close()
        # Reads in a thread, as ``recv`` cannot be given a limit once the first byte of an answer is there.
        self._reader = ThreadPoolExecutor(1)

    def send(self, command: str, data: Any = None) -> None:
        """Sends a command; ``receive`` is what reports a dead worker."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((command, data))

    def receive(self, timeout: float) -> Any:
        """The answer to the last command; RuntimeError when the worker has died or needs longer than ``timeout``."""
        try:
            answer = self._reader.submit(self.connection.recv).result(timeout)
        except TimeoutError:
            raise RuntimeError(
                f"Environment worker {self.index} did not answer within worker_timeout={timeout:g} seconds; raise "
                "worker_timeout if it is only slow, or set runner=supervised_parallel, which restarts it."
            ) from None
        except (EOFError, ConnectionResetError):
            self.process.join(CLOSE_TIMEOUT)
            raise RuntimeError(
                f"Environment worker {self.index} died (exit code {self.process.exitcode}); "
                f"what it printed last is above."
            ) from None
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    def end(self) -> None:
        """Waits for the process, which was told to close, and kills it if it does not end."""
        self.process.join(CLOSE_TIMEOUT)
        self.process.kill()
        self.process.join(CLOSE_TIMEOUT)
        self._reader.shutdown()  # whose wait, if any, has ended with the process
        self.connection.close()


class Portable:
    """A constructor that reaches a worker under any start method, lambdas and local classes included."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __call__(self) -> Any:
        return self.make()

    def __reduce__(self) -> tuple[Callable, tuple]:
        import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self.make),)


def _serve(remote: Connection, inherited: Sequence[Connection], make_env: Callable[[], Any]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's business, which ends this process with SIGKILL
        signal.signal(number, signal.SIG_IGN)
    for connection in inherited:
        connection.close()
    try:
        env = make_env()
    except ConfigError as error:
        remote.send(error)
        return
    while True:
        try:
            command, data = remote.recv()
        except EOFError:  # the parent is gone
            command = "close"
        if command == "close":
            env.close()
            return
        remote.send(execute(env, command, data))
