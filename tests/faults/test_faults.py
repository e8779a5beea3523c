"""After any fault of a worker, the run gets a complete batch and no process is left."""

import gc
import logging
import os
import re
import signal
import time

import numpy as np
import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners import env_process
from lolm_plugin.runners.env_process import EnvProcess, answers

from .battles import STEPS, Dice
from .conftest import alive, none_left, processes

FILES = {"bundled": "episode_batch.py", "EPyMARL": "src/components/episode_buffer.py"}

# EPyMARL's own indexing; see host/epymarl.py.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")

# Faults of worker 1 (place, method), and the log line about each.
FAULTS = [
    ("step", "be_killed", r"died at step 2 \(exit code -9\)"),
    ("step", "be_killed_with_a_copy_left", r"died at step 2 \(exit code -9\)"),
    ("step", "exit", r"died at step 2 \(exit code 0\)"),
    ("step", "go_wrong", "raised ZeroDivisionError: two by nothing at step 2"),
    ("step", "end_of_file", "raised EOFError at step 2"),
    ("step", "answer_what_cannot_be_sent", "raised .*pickle.* at step 2"),
    ("step", "answer_what_cannot_be_received", "gave an answer at step 2 that cannot be read: ValueError"),
    ("step", "hang", "did not answer at step 2 within worker_timeout=3 seconds"),
    ("reset", "be_killed", r"died in reset \(exit code -9\)"),
    ("reset", "go_wrong", "raised ZeroDivisionError: two by nothing in reset"),
    ("reset", "stop", "did not answer in reset within worker_timeout=3 seconds"),
    ("build", "be_killed", r"died while it was built \(exit code -9\)"),
    ("build", "go_wrong", "raised ZeroDivisionError: two by nothing while it was built"),
    ("build", "hang", "did not answer while it was built within worker_timeout=3 seconds"),
]


def check_row(batch, row, expected):
    """Assert that a row of the batch has exactly the expected episode."""
    for key in batch.scheme:
        assert batch[key][row].tolist() == expected[key][0].tolist(), key


def living(runner, folder):
    """Return the process ids of the workers in use and of their games."""
    workers = [worker.process.pid for worker in runner.workers]
    return {*workers, *(int((folder / str(pid)).read_text()) for pid in workers)}


@pytest.mark.parametrize(("place", "how", "said"), FAULTS)
def test_a_fault_costs_only_its_episode(build, undisturbed, tmp_path, caplog, place, how, said):
    # A timeout that a healthy worker on a busy machine does not reach.
    timeout = 3.0 if "timeout" in said else 60.0
    runner = build({"1": [place, how]}, worker_timeout=timeout)
    batch = runner.run()
    check_row(batch, 0, undisturbed(0))
    check_row(batch, 1, undisturbed(1 + 2))  # the seed of its first restart
    assert runner.t_env == STEPS[0] + STEPS[3]
    logged = {name: values[0][1] for name, values in runner.logger.logged.items()}
    returns = [sum(t + seed for t in range(1, STEPS[seed] + 1)) for seed in (0, 3)]
    assert logged["return_mean"] == np.mean(returns)
    assert logged["ep_length_mean"] == (STEPS[0] + STEPS[3]) / 2
    assert logged["battle_won_mean"] == 1
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 1)]
    none_left(tmp_path, but=living(runner, tmp_path))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    line, *traceback = record.getMessage().splitlines()
    assert line.startswith("Environment worker 1 (env=battle) ")
    assert re.search(said, line), line
    assert any("Traceback" in line for line in traceback) == ("raised" in said)
    runner.close_env()
    none_left(tmp_path)


def test_the_others_play_on_and_the_lost_episode_is_played_after_them(build):
    runner = build({"1": ["step", "go_wrong"]}, batch_size_run=3)
    runner.run()
    assert runner.mac.calls == [
        *((0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 2]), (3, [0, 2]), (4, [2])),
        *((t, [1]) for t in range(STEPS[0] + 1)),  # seed 1 + 3
    ]
    assert runner.mac.hidden == [3, 3]


def test_a_worker_killed_from_outside_in_the_middle_of_an_episode(build, undisturbed, tmp_path):
    runner = build()
    pid = runner.workers[1].process.pid
    runner.mac.at[2] = lambda: os.kill(pid, signal.SIGKILL)
    batch = runner.run()
    check_row(batch, 1, undisturbed(3))
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 1)]
    none_left(tmp_path, but=living(runner, tmp_path))


def test_a_worker_killed_between_episodes(build, undisturbed):
    runner = build()
    runner.run()
    os.kill(runner.workers[0].process.pid, signal.SIGKILL)
    batch = runner.run()
    check_row(batch, 0, undisturbed(2))
    check_row(batch, 1, undisturbed(1, episode=1))
    assert [value for _, value in runner.logger.logged["env_restarts"]] == [0, 1]


def test_two_faults_at_once(build, undisturbed):
    runner = build({"0": ["step", "be_killed"], "1": ["step", "go_wrong"]})
    batch = runner.run()
    check_row(batch, 0, undisturbed(2))
    check_row(batch, 1, undisturbed(3))
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 2)]


def test_a_worker_restarted_twice_in_a_batch_gets_a_new_seed_each_time(build, undisturbed, tmp_path):
    runner = build({"1": ["step", "be_killed"], "3": ["reset", "go_wrong"]})
    batch = runner.run()
    check_row(batch, 1, undisturbed(1 + 2 * 2))
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 2)]
    none_left(tmp_path, but=living(runner, tmp_path))


def test_a_fault_during_a_test(build, undisturbed):
    runner = build({"1": ["step", "go_wrong"]})
    check_row(runner.run(test_mode=True), 1, undisturbed(3))
    assert runner.t_env == 0
    lengths = STEPS[0], STEPS[3]
    assert runner.logger.logged["test_ep_length_mean"] == [(0, np.mean(lengths))]
    assert not any("restarts" in name for name in runner.logger.logged)
    runner.run()
    assert runner.logger.logged["env_restarts"] == [(sum(lengths), 1)]


def test_a_fault_while_rendering(build, undisturbed):
    runner = build({"0": ["render", "go_wrong"]}, render=True)
    check_row(runner.run(test_mode=True), 0, undisturbed(2))
    assert sum(runner.restarts) == 1


def test_a_replay_that_cannot_be_saved_is_an_error(build):
    runner = build({"0": ["save_replay", "go_wrong"]})
    with pytest.raises(RuntimeError, match="The replay was not saved"):
        runner.save_replay()


@pytest.mark.parametrize("env", ["sc2", "sc2v2"])
def test_a_crash_that_smac_hides_is_a_fault(build, undisturbed, env, caplog, tmp_path):
    runner = build({"1": ["step", "lose_its_game"]}, env=env)
    batch = runner.run()
    check_row(batch, 1, undisturbed(3))
    assert f"Environment worker 1 (env={env}) lost its game at step 2" in caplog.text
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 1)]
    none_left(tmp_path, but=living(runner, tmp_path))


def test_other_environments_need_not_report_battle_won(build):
    runner = build({"1": ["step", "lose_its_game"]})
    batch = runner.run()
    assert batch["filled"][1].sum() == 2 + 1
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 0)]


def test_restarts_are_bounded(build, tmp_path, caplog):
    runner = build({"every": ["step", "go_wrong"]}, worker_restarts=2)
    with pytest.raises(RuntimeError) as error:
        runner.run()
    message = str(error.value)
    assert message.startswith(
        "Environment worker 0 (env=battle) raised ZeroDivisionError: two by nothing at step 2, and worker_restarts=2 "
        "allows no further restart"
    )
    assert "raise worker_timeout (300 seconds)" in message
    assert (caplog.text + message).count("Traceback") == 1, "the same traceback was logged several times"
    none_left(tmp_path)


def test_restarts_can_be_switched_off(build, tmp_path):
    runner = build({"1": ["reset", "be_killed"]}, worker_restarts=0)
    with pytest.raises(RuntimeError, match=r"worker 1 .* died in reset .* worker_restarts=0 allows no further"):
        runner.run()
    none_left(tmp_path)


def test_restarts_are_unlimited_if_an_episode_is_played_in_between(build):
    runner = build({"every": ["later", "go_wrong"]}, worker_restarts=1)
    for _ in range(4):
        runner.run()
    # Every second episode of each of the two.
    assert [value for _, value in runner.logger.logged["env_restarts"]] == [0, 2, 4, 6]


def test_an_environment_that_cannot_be_built(build, tmp_path):
    with pytest.raises(RuntimeError, match=r"worker [01] .* while it was built.*, and worker_restarts=1 allows"):
        build({"every": ["build", "be_killed"]}, worker_restarts=1)
    none_left(tmp_path)


@pytest.mark.parametrize(
    ("place", "where"), [("build", "while it was built"), ("get_env_info", "in get_env_info"), ("reset", "in reset")]
)
def test_an_environment_that_can_never_work_is_refused_once_without_restarts(build, tmp_path, caplog, place, where):
    caplog.set_level(logging.INFO)
    with pytest.raises(ConfigError) as error:
        build({"every": [place, "go_wrong"]}).run()
    assert str(error.value).startswith(
        "env=battle with env_args map_name=field cannot be played: each of its processes raised ZeroDivisionError: two "
        f"by nothing {where}, which a restart would not change"
    )
    assert caplog.text.count("Traceback") == 1
    assert "restarted" not in caplog.text
    none_left(tmp_path)


def test_a_worker_that_stops_in_the_middle_of_a_large_answer_is_restarted_in_time(build, undisturbed):
    runner = build({"1": ["step", "stop_while_answering"]}, worker_timeout=3.0)
    began = time.monotonic()
    batch = runner.run()
    assert time.monotonic() - began < 30.0
    check_row(batch, 1, undisturbed(3))
    assert runner.logger.logged["env_restarts"] == [(runner.t_env, 1)]


REFUSAL = r"^map_name=field is no map; set map_name to meadow\.$"


def test_a_config_error_of_an_environment_is_passed_on(build, tmp_path):
    with pytest.raises(ConfigError, match=REFUSAL) as error:
        build({"1": ["build", "refuse"]})
    none_left(tmp_path)
    assert error.traceback, "the exception must be alive here, with all that it refers to"


def test_a_later_config_error_is_no_fault_either(build):
    runner = build({"1": ["reset", "refuse"]})
    with pytest.raises(ConfigError, match=REFUSAL):
        runner.run()
    assert sum(runner.restarts) == 0


def test_closing_closes_every_environment_once(build, tmp_path):
    runner = build()
    runner.run()
    workers = [worker.process for worker in runner.workers]
    assert len(processes(tmp_path)) == 4
    runner.close_env()
    runner.close_env()
    assert all((tmp_path / f"{worker.pid}.closed").exists() for worker in workers)
    assert not any(alive(pid) for pid in [worker.pid for worker in workers])
    none_left(tmp_path)  # nor a game, which no battle closes


def test_a_hanging_worker_does_not_block_closing(build, tmp_path, monkeypatch):
    monkeypatch.setattr(env_process, "CLOSE_TIMEOUT", 0.2)
    runner = build()
    os.kill(runner.workers[0].process.pid, signal.SIGSTOP)
    runner.close_env()
    none_left(tmp_path)


def test_a_garbage_collected_runner_closes(build, host, tmp_path):
    runner = build()
    arguments = {"args": runner.args, "logger": runner.logger}
    forgotten = host.registries["runner"]["supervised_parallel"](**arguments)
    pids = living(forgotten, tmp_path)
    assert all(alive(pid) for pid in pids)
    del forgotten
    gc.collect()
    assert not any(alive(pid) for pid in pids)


def test_restarts_leave_no_open_files(build):
    runner = build({"every": ["later", "be_killed"]})
    runner.run()
    runner.run()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    runner.run()
    runner.run()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert sum(runner.restarts) == 6


def test_windows_is_refused_with_advice(build, monkeypatch):
    monkeypatch.delattr("os.killpg")
    with pytest.raises(ConfigError, match=r"process groups.*set runner=episode"):
        build()


def test_a_test_counts_exactly_test_nepisode_episodes_with_lost_ones_replayed(build):
    runner = build({"0": ["", "step", "be_killed"]}, test_nepisode=3)
    for _ in range(2):
        batch = runner.run(test_mode=True)
    assert batch["filled"][:, 0, 0].tolist() == [1, 0]
    assert len(runner.logger.logged["test_return_mean"]) == 1
    assert runner.stats.tested == 0


def test_restarts_of_an_evaluation_are_logged_once_at_its_end(build):
    runner = build({"1": ["step", "be_killed"]}, evaluate=True, test_nepisode=4)
    runner.log_train_stats_t = runner.t_env  # as the host does
    for _ in range(4):
        runner.run(test_mode=True)
    assert runner.logger.logged["env_restarts"] == [(0, 1)]


@pytest.mark.parametrize("warning", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_schedulers_warning_ends_no_worker(warning):
    """A scheduler sends it to every process of a job, also to restarted workers. The run itself saves."""
    worker = EnvProcess("dice", Dice, 5)
    try:
        assert dict(answers({0: worker}, 60)) == {0: None}
        os.kill(worker.process.pid, warning)
        worker.send("get_env_info")
        assert list(dict(answers({0: worker}, 60))) == [0]
    finally:
        worker.kill()


def test_global_generators_are_seeded_in_workers():
    def draws(seed):
        worker = EnvProcess("dice", Dice, seed)
        try:
            assert dict(answers({0: worker}, 60)) == {0: None}
            worker.send("get_env_info")
            return dict(answers({0: worker}, 60))[0]
        finally:
            worker.kill()

    assert draws(5) == draws(5)
    assert all(one != other for one, other in zip(draws(5), draws(6), strict=True))


def test_an_unknown_environment_is_refused(build, host):
    runner = build()
    runner.args.env = "nowhere"
    with pytest.raises(ConfigError, match=r"^env=nowhere is not known to "):
        host.registries["runner"]["supervised_parallel"](args=runner.args, logger=runner.logger)
