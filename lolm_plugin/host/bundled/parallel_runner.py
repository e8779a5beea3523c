"""One process per environment, stepped together."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.bundled import find
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.host.bundled.runner import Runner, observe

# How long a worker may take to close its environment before it is killed, in seconds.
CLOSE_TIMEOUT = 5.0


class ParallelRunner(Runner):
    """``batch_size_run`` copies of ``args.env``, each in a process of its own; copy i is seeded ``seed + i``.

    Raises ConfigError when an environment refuses its arguments, RuntimeError when a worker dies.
    """

    def __init__(self, args: Namespace, logger: Any) -> None:
        super().__init__(args, logger)
        make_env = find("env", args.env)
        shared = {
            **args.env_args,
            "common_reward": args.common_reward,
            "reward_scalarisation": args.reward_scalarisation,
        }
        self.workers: list[Worker] = []
        for i in range(self.batch_size):
            env_args = {**shared, "seed": args.env_args["seed"] + i}
            self.workers.append(Worker(i, partial(make_env, **env_args), self.workers))
        try:
            self.env_info = self._ask_all("get_env_info")[0]
        except BaseException:
            self.close_env()
            raise
        self.episode_limit = self.env_info["episode_limit"]

    def get_env_info(self) -> dict[str, Any]:
        """Sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env_info

    def save_replay(self) -> None:
        """Asks the first environment to save its replay."""
        self.workers[0].ask("save_replay")

    def close_env(self) -> None:
        """Closes every environment and ends its process."""
        for worker in self.workers:
            worker.send("close")
        for worker in self.workers:
            worker.end()

    def run(self, test_mode: bool = False) -> EpisodeBatch:
        """Plays one episode in each environment; test episodes do not count as environment steps."""
        batch = self.new_batch()
        batch.update(_columns(self._ask_all("reset")), ts=0)
        self.mac.init_hidden(batch_size=self.batch_size)
        returns = [self._zero_return() for _ in self.workers]
        lengths = [0] * self.batch_size
        last_infos: dict[int, dict] = {}
        acting, t = list(range(self.batch_size)), 0

        while True:
            actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, bs=acting, test_mode=test_mode)
            batch.update({"actions": actions.unsqueeze(1)}, bs=acting, ts=t, mark_filled=False)
            # An episode that ended at the last step has acted in its last state now, and is left out from here.
            for i, action in zip(acting, actions.cpu().numpy(), strict=True):
                if i not in last_infos:
                    self.workers[i].send("step", action)
            acting = [i for i in acting if i not in last_infos]
            if not acting:
                break
            replies = [self.workers[i].receive() for i in acting]
            if test_mode and self.args.render and acting[0] == 0:
                self.workers[0].ask("render")

            ended = []
            for i, reply in zip(acting, replies, strict=True):
                returns[i] = returns[i] + reply["reward"]
                lengths[i] += 1
                if reply["over"]:
                    last_infos[i] = reply["info"]
                # An episode cut off by its limit is not stored as terminated: its value goes on.
                ended.append((reply["over"] and not reply["info"].get("episode_limit", False),))
            rewards = [(reply["reward"],) for reply in replies]
            batch.update({"reward": rewards, "terminated": ended}, bs=acting, ts=t, mark_filled=False)
            t += 1
            batch.update(_columns([reply["seen"] for reply in replies]), bs=acting, ts=t)

        self._finish(returns, lengths, list(last_infos.values()), test_mode)
        return batch

    def _ask_all(self, command: str) -> list[Any]:
        for worker in self.workers:
            worker.send(command)
        return [worker.receive() for worker in self.workers]


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}


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

    def send(self, command: str, data: Any = None) -> None:
        """Sends a command; ``receive`` is what reports a dead worker."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((command, data))

    def receive(self) -> Any:
        """The answer to the last command; RuntimeError when the worker has died."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(CLOSE_TIMEOUT)
            raise RuntimeError(
                f"Environment worker {self.index} died (exit code {self.process.exitcode}); "
                f"what it printed last is above."
            ) from None
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    def ask(self, command: str) -> Any:
        """Sends a command and waits for the answer."""
        self.send(command)
        return self.receive()

    def end(self) -> None:
        """Waits for the process, which was told to close, and kills it if it does not end."""
        self.process.join(CLOSE_TIMEOUT)
        self.process.kill()
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
        remote.send(_execute(env, command, data))


def _execute(env: Any, command: str, data: Any) -> Any:
    match command:
        case "step":
            _, reward, terminated, truncated, info = env.step(data)
            return {"reward": reward, "over": terminated or truncated, "info": info, "seen": observe(env)}
        case "reset":
            env.reset()
            return observe(env)
        case "get_env_info" | "get_stats" | "render" | "save_replay":
            return getattr(env, command)()
    raise NotImplementedError(command)
