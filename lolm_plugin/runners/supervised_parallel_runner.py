"""One process per environment, stepped together; one that fails costs an episode and not the run."""

import os
import weakref
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import environment_seed
from lolm_plugin.runners.env_process import EnvProcess, WorkerFault, answers, close
from lolm_plugin.runners.lockstep import LockstepRunner
from lolm_plugin.runners.runner import HostParts

# For the host's own algorithms, which are run without our default.yaml.
DEFAULTS = {"worker_timeout": 300.0, "worker_restarts": 5}

# SMAC answers a crash of its game with the end of the episode and an empty info.
SMAC = ("sc2", "sc2v2")


class SupervisedParallelRunner(LockstepRunner):
    """EPyMARL's parallel runner with a keyed seed for each copy of ``args.env``, which keeps its process.

    A worker that dies, raises, or does not answer within ``args.worker_timeout`` seconds is killed with all it
    started and replaced by one with another seed. Its episode is dropped, and played again when the others are over.
    The number of such restarts is logged as ``env_restarts``. There is none if every copy raises at its first
    attempt to do something: a restart would not help.

    Raises:
        ConfigError: the environment is unknown, refuses its arguments or can never work, or the operating system is
            Windows.
        RuntimeError: a worker failed again after ``args.worker_restarts`` restarts without an episode in between.
    """

    def __init__(self, args: Namespace, logger: Any, host: HostParts) -> None:
        super().__init__(args, logger, host.EpisodeBatch)
        if not hasattr(os, "killpg"):
            raise ConfigError(
                "runner=supervised_parallel needs process groups, which this operating system does not have; set "
                "runner=episode and batch_size_run, batch_size and buffer_size to 1."
            )
        self.timeout = getattr(args, "worker_timeout", DEFAULTS["worker_timeout"])
        self.max_restarts = getattr(args, "worker_restarts", DEFAULTS["worker_restarts"])
        self.restarts = [0] * self.batch_size
        self._in_a_row = [0] * self.batch_size  # restarts since the worker's last whole episode
        self._shown = ""  # the traceback in the log, which a worker that keeps failing would repeat
        # StarCraft is launched by the first reset, which may fail once and work the next time.
        self._first_steps = ("build", "get_env_info", *(() if args.env in SMAC else ("reset", "step")))
        self._worked: set[str] = set()  # what an environment has done at least once
        self._make_env = host.env_maker(args.env)
        self.workers: list[EnvProcess] = []
        self._unbuilt = set(range(self.batch_size))
        # Also when the runner is forgotten and when Python ends: after an exception, EPyMARL does not close it.
        self._close = weakref.finalize(self, close, self.workers)
        try:
            for i in range(self.batch_size):
                self.workers.append(self._start(i))
            self._build(range(self.batch_size))
            while not (sizes := self.ask("get_env_info", {0: None})):
                pass
        except BaseException:
            self.close_env()
            raise
        self.env_info = sizes[0]
        self.episode_limit = self.env_info["episode_limit"]

    def get_env_info(self) -> dict[str, Any]:
        """Sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env_info

    def save_replay(self) -> None:
        """Has the first environment save its replay; RuntimeError when it fails."""
        if not self.ask("save_replay", {0: None}):
            raise RuntimeError("The replay was not saved; the log says what the environment did instead.")

    def close_env(self) -> None:
        """Closes every environment and ends its process with all it started; doing so again does nothing."""
        self._close()

    def finish(self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], test_mode: bool) -> None:
        """Log as ``Runner.finish`` does; an evaluation, which has no training statistics, also logs the restarts."""
        super().finish(returns, lengths, infos, test_mode)
        if self._evaluates and test_mode and not self.stats.tested:
            self.logger.log_stat("env_restarts", sum(self.restarts), self.t_env)

    def state(self) -> dict[str, Any]:
        """Adds the restarts so far, which seeds of later restarts follow from, too."""
        return {**super().state(), "restarts": self.restarts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` returned; the number of workers may be another one."""
        super().load_state(state)
        for i, count in enumerate(state.get("restarts", ())):
            self.restarts[i % self.batch_size] += count

    def train_stats(self) -> dict[str, float]:
        """Adds the restarts of all workers so far."""
        return {**super().train_stats(), "env_restarts": sum(self.restarts)}

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Answers to a command; see ``LockstepRunner.ask``. Workers that fail are restarted."""
        self._build(data)
        asked = {i: self.workers[i] for i in data}
        for i, worker in asked.items():
            worker.send(command, data[i])
        # By index alone: of equal ones the answers, which have no order, would be compared.
        outcomes = {i: self._checked(i, outcome) for i, outcome in sorted(answers(asked, self.timeout), key=_index)}
        self._refuse_what_never_works(command, outcomes)
        for i, outcome in outcomes.items():
            if isinstance(outcome, WorkerFault):
                self._restart(i, outcome)
            elif command == "step" and outcome["over"]:
                self._in_a_row[i] = 0
        return {i: outcome for i, outcome in outcomes.items() if not isinstance(outcome, WorkerFault)}

    def _checked(self, i: int, outcome: Any) -> Any:
        lost = isinstance(outcome, dict) and outcome.get("over") and "battle_won" not in outcome["info"]
        if lost and self.args.env in SMAC:
            # It has started another game by then, but the environment is half in the old one.
            return WorkerFault(f"lost its game {self.workers[i].place}")
        return outcome

    def _start(self, i: int) -> EnvProcess:
        args = self.args
        env_args = {
            **args.env_args,
            # A restarted worker must not play its old episodes again.
            "seed": environment_seed(args.env_args["seed"], i, self.restarts[i]),
            "common_reward": args.common_reward,
            "reward_scalarisation": args.reward_scalarisation,
        }
        return EnvProcess(f"env worker {i}", partial(self._make_env, **env_args), env_args["seed"])

    def _build(self, indices: Any) -> None:
        """Waits until the environments of these workers are built, however often one has to be started."""
        while unbuilt := self._unbuilt & set(indices):
            self._unbuilt -= unbuilt
            asked = {i: self.workers[i] for i in unbuilt}
            outcomes = dict(sorted(answers(asked, self.timeout), key=_index))
            self._refuse_what_never_works("build", outcomes)
            for i, outcome in outcomes.items():
                if isinstance(outcome, WorkerFault):
                    self._restart(i, outcome)

    def _refuse_what_never_works(self, command: str, outcomes: Mapping[int, Any]) -> None:
        """Raise ConfigError if every environment raised the same, and none has ever done what ``command`` says."""
        faults = [outcome for outcome in outcomes.values() if isinstance(outcome, WorkerFault)]
        if len(faults) < len(outcomes):
            self._worked.add(command)
        raised = {fault.raised for fault in faults}
        if command in self._worked or command not in self._first_steps or len(raised) != 1 or raised == {""}:
            return
        self.close_env()
        self.logger.console_logger.info("What the environment raised:\n%s", faults[0].details.rstrip())
        raise ConfigError(
            f"env={self.args.env} with env_args {self._shown_args()} cannot be played: each of its processes "
            f"{faults[0]}, which a restart would not change; the log has its traceback, so change env_args or correct "
            "the environment."
        )

    def _shown_args(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.args.env_args.items() if key in ("map_name", "key"))

    def _restart(self, i: int, fault: WorkerFault) -> None:
        """Replaces a failed worker by a new one, whose environment is built while the others play on."""
        self.workers[i].kill()
        what = f"Environment worker {i} (env={self.args.env}) {fault}"
        # One that keeps failing is not to fill the log.
        details = f"\n{fault.details.rstrip()}" if fault.details not in ("", self._shown) else ""
        self._shown = fault.details or self._shown
        if self._in_a_row[i] >= self.max_restarts:
            self.close_env()
            raise RuntimeError(
                f"{what}, and worker_restarts={self.max_restarts} allows no further restart before it has played a "
                f"whole episode: mend the environment, or raise worker_timeout ({self.timeout:g} seconds) if it is "
                f"only slow, or worker_restarts if it may fail more often.{details}"
            )
        self._in_a_row[i] += 1
        self.restarts[i] += 1
        self.logger.console_logger.warning(
            "%s; it is restarted (env_restarts=%d) and its episode played again.%s", what, sum(self.restarts), details
        )
        self.workers[i] = self._start(i)
        self._unbuilt.add(i)


def _index(indexed: tuple[int, Any]) -> int:
    return indexed[0]
