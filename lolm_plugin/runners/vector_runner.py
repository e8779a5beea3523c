"""Runner that steps all environments in one call, in this process. Its batches equal those of a parallel runner."""

from argparse import Namespace
from typing import Any

import numpy as np
import torch

from lolm_plugin.envs.base import VectorEnv, env_info
from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.registry import VECTOR_ENVS, load
from lolm_plugin.runners.runner import HostInterface, Runner


class VectorRunner(Runner):
    """Runner of ``batch_size_run`` copies of ``args.env``; each plays one episode per ``run``.

    An episode's seed depends on ``args.seed``, train or test, ``t_env``, and the episode's number at this ``t_env``. So
    a resumed run plays the same battles as an uninterrupted one, and the battles of a test do not depend on
    ``batch_size_run``. A sampled test plays the battles of the greedy test before it.

    Args:
        args: the host's configuration.
        logger: the host's logger.
        host: the host; only its batch class is used.

    Raises:
        ConfigError: the environment has no vector form or rejects its arguments, or a key is not supported by this
            runner (``common_reward=False``, ``render``, ``save_replay``).
    """

    def __init__(self, args: Namespace, logger: Any, host: HostInterface) -> None:
        super().__init__(args, logger, host.EpisodeBatch)
        self.env = _make_env(args)
        self.episode_limit = self.env.episode_limit
        self._run_t, self._runs_at_t = -1, 0  # training runs that started at this t_env

    def get_env_info(self) -> dict[str, int]:
        """Return the sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return env_info(self.env)

    def play(self, test_mode: bool) -> Any:
        """Play one episode in each copy. Copies that a test does not need take their first available action."""
        batch, count = self.new_batch(), self.episodes(test_mode)
        self.env.reset(self._episode_seeds(test_mode))
        self.mac.init_hidden(batch_size=self.batch_size)
        actions = np.zeros((self.batch_size, self.env.n_agents), dtype=np.int64)
        over = np.arange(self.batch_size) >= count
        returns, lengths = np.zeros(self.batch_size), np.zeros(self.batch_size, dtype=int)
        last_infos: dict[int, dict[str, float]] = {}
        acting, t = list(range(count)), 0
        self.check_masks(self.env.avail_actions[acting], acting, t)
        self._store(batch, self._view(), acting, t, mark_filled=True)

        while True:
            with torch.no_grad():
                chosen = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, bs=acting, test_mode=test_mode)
            actions[acting] = chosen.cpu().numpy()
            # An episode that ended at the last step has now acted once more in its last state, and stops here.
            acted, acting = acting, [i for i in acting if not over[i]]
            if not acting:
                self._store(batch, {"actions": actions}, acted, t, mark_filled=False)
                break
            if count < self.batch_size:
                actions[count:] = self.env.avail_actions[count:].argmax(-1)
            step = self.env.step(actions)
            # Results of a copy after the end of its episode are meaningless.
            terminated, truncated = step.terminated & ~over, step.truncated & ~over
            ended = self.stored_terminated(terminated, truncated, step.info).astype(np.uint8)
            taken = {"actions": actions, "reward": step.reward * ~over, "terminated": ended}
            self._store(batch, taken, acted, t, mark_filled=False)
            returns[acting] += step.reward[acting]
            lengths[acting] += 1
            over[acting] = step.over[acting]
            last_infos |= {i: {name: float(value[i]) for name, value in step.info.items()} for i in acting if over[i]}
            t += 1
            running = [i for i in acting if not over[i]]
            self.check_masks(self.env.avail_actions[running], running, t)
            self._store(batch, self._view(), acting, t, mark_filled=True)

        infos = [last_infos[i] for i in range(count)]
        self.finish(returns[:count].tolist(), lengths[:count].tolist(), infos, test_mode)
        return batch

    def close_env(self) -> None:
        """Close every copy."""
        self.env.close()

    def save_replay(self) -> None:
        """Raise ConfigError: no replay is recorded."""
        raise _refused("save_replay")

    def _episode_seeds(self, test_mode: bool) -> np.ndarray:
        key = ("test" if test_mode else "train", self.t_env)
        if test_mode:
            begun = self.stats.tested
        else:
            self._runs_at_t = self._runs_at_t + 1 if self.t_env == self._run_t else 0
            self._run_t = self.t_env
            begun = self._runs_at_t * self.batch_size
        return keyed_seeds(self.args.seed, *key, 0, count=begun + self.batch_size)[begun:]

    def _view(self) -> dict[str, np.ndarray]:
        return {"state": self.env.state, "avail_actions": self.env.avail_actions, "obs": self.env.obs}

    def _store(self, batch: Any, data: dict[str, np.ndarray], rows: list[int], t: int, mark_filled: bool) -> None:
        """Write the entries ``rows`` of arrays ``[n_envs, ...]`` into step ``t`` of the batch."""
        # If all environments play, a slice is faster: hosts loop over an index array several times per field.
        where = slice(None) if len(rows) == self.batch_size else np.array(rows)
        tensors = {key: torch.tensor(value[where, None], device=self.args.device) for key, value in data.items()}
        batch.update(tensors, bs=where, ts=t, mark_filled=mark_filled)


def _make_env(args: Namespace) -> VectorEnv:
    if args.env not in VECTOR_ENVS:
        raise ConfigError(
            f"runner=vector cannot step env={args.env}, because only {' and '.join(sorted(VECTOR_ENVS))} step many "
            "copies in one call: set runner=parallel or runner=supervised_parallel."
        )
    if not args.common_reward:
        raise ConfigError("common_reward=False cannot be used with runner=vector: set common_reward=True.")
    for key in ("render", "save_replay"):
        if getattr(args, key, False):
            raise _refused(key)
    # This runner draws the seed of every episode.
    env_args = {key: value for key, value in args.env_args.items() if key != "seed"}
    return load(VECTOR_ENVS[args.env])(n_envs=args.batch_size_run, **env_args)


def _refused(key: str) -> ConfigError:
    return ConfigError(f"{key}=True cannot be used with runner=vector, which cannot render: set {key}=False.")
