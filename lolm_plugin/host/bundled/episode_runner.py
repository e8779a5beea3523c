"""One environment in this process, one episode at a time."""

from argparse import Namespace
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.bundled import find
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.runners.env_worker import observe
from lolm_plugin.runners.runner import Runner


class EpisodeRunner(Runner):
    """Runs ``args.env``; ``batch_size_run`` must be 1 (ConfigError)."""

    def __init__(self, args: Namespace, logger: Any) -> None:
        super().__init__(args, logger, EpisodeBatch)
        if self.batch_size != 1:
            raise ConfigError(
                f"batch_size_run={self.batch_size} cannot be run by runner=episode, which has one environment; "
                f"set runner to parallel, or batch_size_run to 1."
            )
        self.env = find("env", args.env)(
            **args.env_args, common_reward=args.common_reward, reward_scalarisation=args.reward_scalarisation
        )
        self.episode_limit = self.env.episode_limit

    def get_env_info(self) -> dict[str, Any]:
        """Sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env.get_env_info()

    def save_replay(self) -> None:
        """Asks the environment to save its replay."""
        self.env.save_replay()

    def close_env(self) -> None:
        """Closes the environment."""
        self.env.close()

    def run(self, test_mode: bool = False) -> EpisodeBatch:
        """Plays one episode; test episodes do not count as environment steps."""
        batch = self.new_batch()
        self.env.reset()
        self.mac.init_hidden(batch_size=1)
        episode_return, t, over, info = self.zero_return(), 0, False, {}

        while not over:
            seen = self._seen(t)
            self.check_masks(seen["avail_actions"], [0], t)
            batch.update(seen, ts=t)
            actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, test_mode=test_mode)
            _, reward, terminated, truncated, info = self.env.step(actions[0])
            if test_mode and self.args.render:
                self.env.render()
            over = terminated or truncated
            ended = bool(self.stored_end(terminated, truncated, info))
            batch.update({"actions": actions, "terminated": [(ended,)], "reward": [(reward,)]}, ts=t)
            episode_return = episode_return + reward
            t += 1

        # The last state has an action too, which bootstrapping learners look at.
        batch.update(self._seen(t), ts=t)
        actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, test_mode=test_mode)
        batch.update({"actions": actions}, ts=t)

        self.finish([episode_return], [t], [info], test_mode)
        return batch

    def _seen(self, t: int) -> dict[str, list]:
        seen = observe(self.env)
        self.check_agents(seen, 0, t)
        return {key: [value] for key, value in seen.items()}
