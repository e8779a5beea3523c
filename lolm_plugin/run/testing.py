"""Tests of the policy: greedy battles, and the same number of battles with sampled actions."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lolm_plugin.run.components import RenamedTestLogger, RunComponents
from lolm_plugin.run.progress import progress
from lolm_plugin.runners.many_maps_runner import ManyMapsRunner
from lolm_plugin.runners.runner import Runner
from lolm_plugin.tracking.series import SAMPLED
from lolm_plugin.watch.keeper import Keeper


def round_to_batches(components: RunComponents) -> None:
    """Round ``test_nepisode`` to whole batches for EPyMARL's own runners, which play only whole batches."""
    args, runner = components.args, components.runner
    if isinstance(runner, Runner):
        return
    rounded = max(1, args.test_nepisode // runner.batch_size) * runner.batch_size
    if rounded != args.test_nepisode:
        components.logger.console_logger.warning(
            "Tests have %d episodes instead of test_nepisode=%d, because runner=%s plays whole batches; set "
            "runner=supervised_parallel for exactly test_nepisode episodes.",
            *(rounded, args.test_nepisode, args.runner),
        )
        args.test_nepisode = rounded


def build_keeper(components: RunComponents, folder: Path | None, log: logging.Logger, reference: bool) -> Keeper:
    """Build the recorder of the first battles of each test. On many maps it records those of the first map.

    The first map has the shortest name (``maps.training_maps``).
    """
    learner = components.learner
    if isinstance(components.runner, ManyMapsRunner):
        critic, normaliser = learner.critic.of_maps[0], learner.value_normaliser
        learner = SimpleNamespace(mac=learner.mac.first, critic=critic, value_normaliser=normaliser)
        return Keeper(learner.mac.args, learner, components.args.keep_battles, folder, log, reference)
    return Keeper(components.args, learner, components.args.keep_battles, folder, log, reference)


def play_tests(components: RunComponents, stopped: Callable[[], bool] = lambda: False, is_last: bool = True) -> bool:
    """Play ``test_nepisode`` battles and, if ``test_sampled``, the same number with sampled actions.

    Without ``test_greedy`` the first test already samples. The keeper records its first battles. The last test of a
    run can have another number of battles on ``test_maps``. Returns False if ``stopped()`` ended the tests early.
    """
    mac, runner, logger = components.learner.mac, components.runner, components.runner.logger
    keeper = components.keeper
    with keeper.listening() if keeper else nullcontext():
        if not play_battles(components, mac, False, stopped, keeper):
            return False
    if keeper:
        keeper.finish()
    if not _play_held_out(components, stopped, is_last):
        return False
    if not (components.args.test_sampled and components.args.test_greedy):
        return True
    runner.logger = RenamedTestLogger(logger, SAMPLED)
    try:
        return play_battles(components, mac, True, stopped)
    finally:
        runner.logger = logger


def _play_held_out(components: RunComponents, stopped: Callable[[], bool], is_last: bool) -> bool:
    """Play the battles on each of ``test_maps``. Returns False if they ended early."""
    held_out = components.held_out
    if held_out is None:
        return True
    episodes = held_out.at_end if is_last else held_out.between
    held_out.runner.t_env = components.runner.t_env
    held_out.runner.set_test_episodes(episodes)
    return _play(held_out.runner, held_out.mac, episodes, False, stopped)


def play_battles(
    components: RunComponents,
    mac: Any,
    sampled: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    keeper: Keeper | None = None,
) -> bool:
    """Play ``test_nepisode`` battles with ``mac``, the runner's controller. Returns False if they ended early.

    ``keeper`` gets every batch.
    """
    return _play(components.runner, mac, components.args.test_nepisode, sampled, stopped, keeper)


def _play(
    runner: Any,
    mac: Any,
    episodes: int,
    sampled: bool,
    stopped: Callable[[], bool],
    keeper: Keeper | None = None,
) -> bool:
    if hasattr(mac, "begin_test"):  # a controller of ours
        mac.begin_test(sampled)
    if isinstance(runner, Runner):
        runner.begin_test()
    with _no_training_statistics(runner):
        batches = range(-(-episodes // runner.batch_size))
        label = "test with sampled actions" if sampled else "test"
        log = runner.logger.console_logger
        for _ in progress(batches, label, runner.batch_size, log, "battle"):
            if stopped():
                return False
            count = runner.episodes(True) if isinstance(runner, Runner) else runner.batch_size
            batch = runner.run(test_mode=True)
            if keeper:
                player = runner
                if isinstance(runner, ManyMapsRunner):  # the battles of the first map
                    player, batch = runner.runners[0], batch.parts[0]
                    count = batch.batch_size
                infos = player.last_infos if isinstance(player, Runner) else []
                keeper.add(batch, count, runner.t_env, infos)
    return True


@contextmanager
def _no_training_statistics(runner: Any) -> Iterator[None]:
    """Postpone training statistics until after a test.

    If they are due, as before the first training episode, EPyMARL's runners log a test after its first episode. They
    would count its other episodes in the next test.
    """
    logged_t = runner.log_train_stats_t
    runner.log_train_stats_t = runner.t_env
    try:
        yield
    finally:
        runner.log_train_stats_t = logged_t
