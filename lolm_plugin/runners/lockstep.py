"""Runners that step all environments together, as EPyMARL's parallel runner does, and the runner of one environment."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners.env_process import execute
from lolm_plugin.runners.runner import HostInterface, Runner


@dataclass
class Episode:
    """Statistics of an episode that are not stored in the batch."""

    total: float | np.ndarray  # undiscounted return; float [n_agents] with common_reward=False
    length: int = 0
    over: bool = False
    info: Mapping[str, float] = field(default_factory=dict)  # info of its last step


class LockstepRunner(Runner):
    """Runner of ``batch_size_run`` environments, each of which plays one episode per batch.

    A subclass implements ``ask``, ``get_env_info`` and ``close_env``, and sets ``episode_limit``. For example, a runner
    that steps all environments one after the other in this process::

        class SerialRunner(LockstepRunner):
            def __init__(self, args, logger, host):
                super().__init__(args, logger, host.EpisodeBatch)
                rewards = {key: getattr(args, key) for key in ("common_reward", "reward_scalarisation")}
                seeds = [environment_seed(args.env_args["seed"], i) for i in range(self.batch_size)]
                make = host.env_maker(args.env)
                self.envs = [make(**{**args.env_args, **rewards, "seed": seed}) for seed in seeds]
                self.episode_limit = self.envs[0].episode_limit

            def ask(self, command, data):
                return {i: execute(self.envs[i], command, value) for i, value in data.items()}

            def get_env_info(self):
                return self.envs[0].get_env_info()

            def close_env(self):
                for env in self.envs:
                    env.close()

    Register it in ``registry.ENTRIES["runner"]`` and set ``runner`` to its name.
    """

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Execute ``command`` in each environment ``i`` of ``data`` with ``data[i]``.

        Args:
            command: see ``env_process.execute``.
            data: index of an environment -> argument of the command.

        Returns:
            Index -> answer, in the order of the indices. An environment without an answer has lost its episode and is
            ready for a ``reset``.
        """
        raise NotImplementedError

    def play(self, test_mode: bool) -> Any:
        """Play an episode in each environment. Lost episodes are played again when the others are over."""
        batch, rows = self.new_batch(), range(self.episodes(test_mode))
        episodes: dict[int, Episode] = {}
        while lost := [row for row in rows if row not in episodes]:
            for tensor in batch.data.transition_data.values():
                tensor[lost] = 0
            episodes |= self._play_rows(batch, lost, test_mode)
        ended = [episodes[row] for row in rows]
        self.finish([e.total for e in ended], [e.length for e in ended], [e.info for e in ended], test_mode)
        return batch

    def _play_rows(self, batch: Any, rows: list[int], test_mode: bool) -> dict[int, Episode]:
        """Play an episode for each of these batch indices, whose entries are empty; return the completed episodes."""
        shown = self.ask("reset", dict.fromkeys(rows))
        # All other episodes are over, so their hidden states are no longer needed.
        self.mac.init_hidden(batch_size=self.batch_size)
        episodes = {row: Episode(total=self.zero_return()) for row in shown}
        acting, t = list(episodes), 0
        if acting:
            self._check_shown(shown, acting, 0)
            batch.update(_stacked(shown[row] for row in acting), bs=acting, ts=0)

        while acting:
            with torch.no_grad():
                actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, bs=acting, test_mode=test_mode)
            batch.update({"actions": actions.unsqueeze(1)}, bs=acting, ts=t, mark_filled=False)
            # An episode that ended at the last step has now acted once more in its last state, and stops here.
            chosen = dict(zip(acting, actions.cpu().numpy(), strict=True))
            replies = self.ask("step", {row: chosen[row] for row in acting if not episodes[row].over})
            if test_mode and self.args.render and 0 in replies and not self.ask("render", {0: None}):
                del replies[0]
            acting = list(replies)
            if not acting:
                break
            outcome = [self._count(episodes[row], replies[row]) for row in acting]
            batch.update(_stacked(outcome), bs=acting, ts=t, mark_filled=False)
            t += 1
            shown = {row: replies[row]["seen"] for row in acting}
            self._check_shown(shown, [row for row in acting if not episodes[row].over], t)
            batch.update(_stacked(shown.values()), bs=acting, ts=t)
        return {row: episode for row, episode in episodes.items() if episode.over}

    def _check_shown(self, shown: Mapping[int, Mapping[str, Any]], running: list[int], t: int) -> None:
        """Raise ConfigError if an agent is missing, or an agent of a ``running`` episode has no available action."""
        for row, one in shown.items():
            self.check_agents(one, row, t)
        if running:
            self.check_masks([shown[row]["avail_actions"] for row in running], running, t)

    def _count(self, episode: Episode, reply: Mapping[str, Any]) -> dict[str, tuple]:
        """Add a step to an episode's statistics; return the step's fields for the batch."""
        episode.total = episode.total + reply["reward"]
        episode.length += 1
        episode.over, episode.info = reply["over"], reply["info"]
        ended = self.stored_terminated(reply["terminated"], reply["truncated"], episode.info)
        return {"reward": (reply["reward"],), "terminated": (bool(ended),)}


class EpisodeRunner(LockstepRunner):
    """Runner of one environment in this process. Raises ConfigError unless ``batch_size_run`` is 1."""

    def __init__(self, args: Namespace, logger: Any, host: HostInterface) -> None:
        super().__init__(args, logger, host.EpisodeBatch)
        if self.batch_size != 1:
            raise ConfigError(
                f"batch_size_run={self.batch_size} cannot be run by runner=episode, which has one environment; "
                f"set runner to supervised_parallel, or batch_size_run to 1."
            )
        self.env = host.env_maker(args.env)(
            **args.env_args, common_reward=args.common_reward, reward_scalarisation=args.reward_scalarisation
        )
        self.episode_limit = self.env.episode_limit

    def get_env_info(self) -> dict[str, Any]:
        """Return the sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env.get_env_info()

    def save_replay(self) -> None:
        """Ask the environment to save its replay."""
        self.env.save_replay()

    def close_env(self) -> None:
        """Close the environment."""
        self.env.close()

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Execute a command; see ``LockstepRunner.ask``. No episode is ever lost."""
        return {i: execute(self.env, command, value) for i, value in data.items()}


def _stacked(rows: Iterable[Mapping[str, Any]]) -> dict[str, list]:
    rows = list(rows)
    return {key: [row[key] for row in rows] for key in rows[0]}
