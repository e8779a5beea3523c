"""Runner of many maps: each map has its own runner, and every episode's map is drawn anew."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lolm_plugin.map_batches import MapBatches
from lolm_plugin.maps import TrainingMap, draw_counts
from lolm_plugin.runners.episode_stats import EpisodeStats
from lolm_plugin.runners.runner import Runner


class MapLogger:
    """Logger that adds ``/MAP`` to the name of every statistic and passes it to the current logger of ``runner``."""

    def __init__(self, runner: Runner, map_name: str) -> None:
        self.runner, self.map_name = runner, map_name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner.logger, name)

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Log ``value`` at environment step ``t``."""
        self.runner.logger.log_stat(f"{key}/{self.map_name}", value, t, to_sacred)


class MapStats(EpisodeStats):
    """Statistics of one map. They keep the episodes, which are also recorded for all maps together."""

    def __init__(self, args: Namespace, logger: Any) -> None:
        super().__init__(args, logger)
        self.played: list[tuple[Sequence, Sequence[int], Sequence[Mapping]]] = []

    def record(
        self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], t_env: int, test_mode: bool
    ) -> bool:
        """Record the episodes of a test; keep those of a training for ``record_training``."""
        self.played.append((returns, lengths, infos))
        return super().record(returns, lengths, infos, t_env, test_mode) if test_mode else False

    def record_training(self, t_env: int) -> None:
        """Record the training episodes at the step after those of all maps."""
        for returns, lengths, infos in self.played:
            super().record(returns, lengths, infos, t_env, False)


class ManyMapsRunner(Runner):
    """Runner of ``batch_size_run`` episodes, whose maps are drawn by their weights. A test plays every map.

    Statistics of each map have ``/MAP`` after their name. The usual names have those of all episodes. In a test all
    maps have ``test_nepisode`` episodes, so these are the means over the maps.

    Args:
        args: the configuration, with the list of maps.
        logger: the host's logger.
        maps: the maps in their order.
        build: builds the runner of a map's ``args`` with a logger.
        args_of: the configuration for one map.
    """

    def __init__(
        self,
        args: Namespace,
        logger: Any,
        maps: Sequence[TrainingMap],
        build: Callable[[Namespace, Any], Runner],
        args_of: Callable[[str], Namespace],
    ) -> None:
        super().__init__(args, logger, lambda: None)
        self.maps = maps
        whole_test = Namespace(**{**vars(args), "test_nepisode": args.test_nepisode * len(maps)})
        self.stats = EpisodeStats(whole_test, logger)
        self.runners: list[Any] = []  # a ``Runner`` of each map
        try:
            for each in maps:
                own, own_logger = args_of(each.name), MapLogger(self, each.name)
                self.runners.append(build(own, own_logger))
                self.runners[-1].stats = MapStats(own, own_logger)
        except BaseException:
            self.close_env()
            raise

    def set_test_episodes(self, episodes: int) -> None:
        """Set the number of episodes on each map in the next tests, in place of ``test_nepisode``."""
        self.args.test_nepisode, self.stats.args.test_nepisode = episodes, episodes * len(self.maps)
        for runner in self.runners:
            runner.args.test_nepisode = episodes

    def begin_test(self) -> None:
        """Start a new test on every map."""
        super().begin_test()
        for runner in self.runners:
            runner.begin_test()

    def play(self, test_mode: bool) -> MapBatches:
        """Play episodes: of drawn maps in training, of all maps in a test; return a batch for each map played.

        The maps play one after the other, so their random draws are keyed by different steps.
        """
        everything = [self.batch_size] * len(self.maps)
        counts = everything if test_mode else draw_counts(self.maps, self.batch_size, self.args, self.t_env)
        played = [index for index, count in enumerate(counts) if count]
        batches = []
        for index in played:
            runner = self.runners[index]
            runner.t_env, runner.train_episodes = self.t_env, counts[index]
            count = runner.episodes(test_mode)
            batch = runner.run(test_mode)
            batches.append(batch[:count, : int(batch.max_t_filled())])
            if not test_mode:
                self.t_env = runner.t_env
        self._record(test_mode)
        return MapBatches([self.maps[index].name for index in played], batches, played)

    def _record(self, test_mode: bool) -> None:
        """Record the episodes of all maps together."""
        stats: list[MapStats] = [runner.stats for runner in self.runners]
        played = [each for of_map in stats for each in of_map.played]
        for of_map in stats:
            if not test_mode:
                of_map.record_training(self.t_env)
            of_map.played = []
        returns: list[Any] = [one for each in played for one in each[0]]
        lengths = [one for each in played for one in each[1]]
        infos = [one for each in played for one in each[2]]
        if self.stats.record(returns, lengths, infos, self.t_env, test_mode):
            totals: Counter[str] = Counter()
            for runner in self.runners:
                totals.update(runner.train_stats())
            for name, value in totals.items():
                self.logger.log_stat(name, value, self.t_env)

    def get_env_info(self) -> dict[str, int]:
        """Return the largest sizes: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        infos = [runner.get_env_info() for runner in self.runners]
        names = ("state_shape", "obs_shape", "n_actions", "n_agents", "episode_limit")
        return {name: max(info[name] for info in infos) for name in names}

    def state(self) -> dict[str, Any]:
        """Return the statistics of all maps together, and the state of each map's runner."""
        runners = zip(self.maps, self.runners, strict=True)
        return {**super().state(), "maps": {each.name: runner.state() for each, runner in runners}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        for each, runner in zip(self.maps, self.runners, strict=True):
            runner.load_state(state["maps"][each.name])

    def save_replay(self) -> None:
        """Save a replay of each map."""
        for runner in self.runners:
            runner.save_replay()

    def close_env(self) -> None:
        """Close the environments of all maps."""
        for runner in self.runners:
            runner.close_env()
