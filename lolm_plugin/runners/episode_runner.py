"""One environment in this process, one episode at a time."""

from argparse import Namespace
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners.env_process import observe
from lolm_plugin.runners.runner import HostInterface, Runner


class EpisodeRunner(Runner):
    """Play ``args.env``. Raises ConfigError unless ``batch_size_run`` is 1."""

    def __init__(self, args: Namespace, logger: Any, host: HostInterface) -> None:
        super().__init__(args, logger, host.EpisodeBatch)
        if self.batch_size != 1:
            raise ConfigError(
                f"batch_size_run={self.batch_size} cannot be run by runner=episode, which has one environment; "
                f"set runner to parallel, or batch_size_run to 1."
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

    def play(self, test_mode: bool) -> Any:
        """Play one episode."""
        batch = self.new_batch()
        self.env.reset()
        self.mac.init_hidden(batch_size=1)
        episode_return, t, over = self.zero_return(), 0, False
        info: dict[str, Any] = {}
        while not over:
            before = self._observe(t)
            self.check_masks(before["avail_actions"], [0], t)
            batch.update(before, ts=t)
            actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, test_mode=test_mode)
            _, reward, terminated, truncated, info = self.env.step(actions[0])
            if test_mode and self.args.render:
                self.env.render()
            over = terminated or truncated
            ended = bool(self.stored_end(terminated, truncated, info))
            batch.update({"actions": actions, "terminated": [(ended,)], "reward": [(reward,)]}, ts=t)
            episode_return = episode_return + reward
            t += 1
        # The last state has an action, too, which bootstrapping learners read.
        batch.update(self._observe(t), ts=t)
        actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, test_mode=test_mode)
        batch.update({"actions": actions}, ts=t)
        self.finish([episode_return], [t], [info], test_mode)
        return batch

    def _observe(self, t: int) -> dict[str, list]:
        shown = observe(self.env)
        self.check_agents(shown, 0, t)
        return {key: [value] for key, value in shown.items()}
