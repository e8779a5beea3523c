from argparse import Namespace

import numpy as np
import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.runners import supervised_parallel_runner

from .fakes import LIMIT, N_ACTIONS, N_AGENTS, FakeEnv, FakeMAC, Scalars, episode_length, settings

PARALLEL = ("parallel", "supervised_parallel")
SIZES = [("episode", 1), *((name, 2) for name in PARALLEL)]

FILES = {"bundled": "../../runners", "EPyMARL": "src/runners"}

# EPyMARL's own indexing; see host/epymarl.py.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")


class OneHot:
    def transform(self, tensor):
        return torch.nn.functional.one_hot(tensor[..., 0], N_ACTIONS).float()

    def infer_output_info(self, vshape_in, dtype_in):
        return (N_ACTIONS,), torch.float32


@pytest.fixture
def build(host, monkeypatch):
    """``build("parallel", batch_size_run=3)`` returns a runner that is set up, its controller and its logger.

    In every runner, environment i has the seed ``seed + i``, as in EPyMARL's own, so that the episodes are known.
    """
    monkeypatch.setattr(supervised_parallel_runner, "environment_seed", lambda seed, i, restart: seed + i)
    monkeypatch.setitem(host.registries["env"], "fake", FakeEnv)
    started = []

    def make(runner, **changes):
        args = Namespace(**settings(host, runner=runner, **changes))
        logger = Scalars()
        runner = host.registries["runner"][runner](args=args, logger=logger)
        started.append(runner)
        info = runner.get_env_info()
        args.n_agents, args.n_actions = info["n_agents"], info["n_actions"]
        scheme = {
            "state": {"vshape": info["state_shape"]},
            "obs": {"vshape": info["obs_shape"], "group": "agents"},
            "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
            "avail_actions": {"vshape": (N_ACTIONS,), "group": "agents", "dtype": torch.int},
            "terminated": {"vshape": (1,), "dtype": torch.uint8},
            "reward": {"vshape": (1 if args.common_reward else N_AGENTS,)},
        }
        mac = FakeMAC(scheme, {"agents": N_AGENTS}, args)
        preprocess = {"actions": ("actions_onehot", [OneHot()])}
        runner.setup(scheme=scheme, groups={"agents": N_AGENTS}, preprocess=preprocess, mac=mac)
        return runner, mac, logger

    yield make
    for runner in started:
        runner.close_env()


def check_episode(batch, row, seed):
    """Assert that row ``row`` of the batch is the episode of the environment with ``seed``."""
    length = episode_length(seed)
    steps = torch.arange(LIMIT + 1)
    there = steps <= length  # the last state is stored too
    assert batch["filled"][row, :, 0].tolist() == there.long().tolist()
    assert batch["obs"][row, there, 1].tolist() == [[t, 1, seed] for t in range(length + 1)]
    assert batch["state"][row, there].tolist() == [[t, seed, 7, 7, 7] for t in range(length + 1)]
    assert batch["avail_actions"][row, there, 1, 2].tolist() == [t % 2 for t in range(length + 1)]
    assert batch["reward"][row, :, 0].tolist() == [t + 1 if t < length else 0 for t in range(LIMIT + 1)]
    ends = [t == length - 1 and length < LIMIT for t in range(LIMIT + 1)]
    assert batch["terminated"][row, :, 0].tolist() == ends
    for agent in range(N_AGENTS):
        actions = [(t + agent) % N_ACTIONS for t in range(length + 1)]
        assert batch["actions"][row, there, agent, 0].tolist() == actions
        assert batch["actions_onehot"][row, there, agent].argmax(-1).tolist() == actions
    for key in ("obs", "state", "avail_actions", "actions"):
        assert not batch[key][row, ~there].any(), key


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_episode_runner_stores_the_episode(build, seed):
    runner, mac, _ = build("episode", env_args={"map_name": "field", "seed": seed})
    batch = runner.run()
    assert (batch.batch_size, batch.max_seq_length) == (1, LIMIT + 1)
    check_episode(batch, 0, seed)
    assert mac.hidden == [1]
    assert [call["t_ep"] for call in mac.calls] == list(range(episode_length(seed) + 1))
    assert {call["t_env"] for call in mac.calls} == {0}
    assert runner.t_env == episode_length(seed)
    assert runner.env.actions == [[t % 3, (t + 1) % 3] for t in range(episode_length(seed))]


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_runner_stores_every_episode(build, name):
    runner, mac, _ = build(name, batch_size_run=4, env_args={"map_name": "field", "seed": 0})
    batch = runner.run()
    assert (batch.batch_size, batch.max_seq_length) == (4, LIMIT + 1)
    for i in range(4):
        check_episode(batch, i, seed=i)
    # Lengths 2, 3, 4, 2: each episode acts once more, in its last state.
    everyone = [0, 1, 2, 3]
    assert [call["rows"] for call in mac.calls] == [everyone, everyone, everyone, [1, 2], [2]]
    assert mac.hidden == [4]
    assert runner.t_env == 2 + 3 + 4 + 2


@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_test_episodes_do_not_count_as_steps(build, runner, size):
    runner, mac, _ = build(runner, batch_size_run=size)
    batch = runner.run(test_mode=True)
    check_episode(batch, 0, seed=1)
    assert runner.t_env == 0
    assert all(call["test_mode"] for call in mac.calls)
    runner.run()
    assert runner.t_env == sum(episode_length(1 + i) for i in range(size))
    assert mac.calls[-1]["t_env"] == 0
    assert not mac.calls[-1]["test_mode"]


@pytest.mark.parametrize("name", PARALLEL)
def test_statistics_of_training(build, host, name):
    runner, _, logger = build(name, batch_size_run=3, runner_log_interval=10, env_args={"map_name": "field", "seed": 0})
    runner.run()  # the first statistics are logged at once
    runner.run()
    assert set(logger.logged) == {
        *("return_mean", "return_std", "ep_length_mean", "battle_won_mean", "won_twice_mean"),
        *("episode_limit_mean", "epsilon"),
        *(["env_restarts"] if ours(host, name) else []),
    }
    assert [t for t, _ in logger.logged["return_mean"]] == [9]
    assert logger.logged["return_mean"][0][1] == pytest.approx((3 + 6 + 10) / 3)
    assert logger.logged["return_std"][0][1] == pytest.approx(np.std([3, 6, 10]))
    assert logger.logged["ep_length_mean"] == [(9, 3)]
    assert logger.logged["battle_won_mean"][0][1] == pytest.approx(1 / 3)
    assert logger.logged["won_twice_mean"][0][1] == pytest.approx(4 / 3)  # missing in the truncated episode
    assert logger.logged["epsilon"] == [(9, 0.25)]
    runner.run()
    assert [t for t, _ in logger.logged["return_mean"]] == [9, 27]  # 18 - 9 < 10 <= 27 - 9


@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_statistics_of_tests(build, runner, size):
    runner, _, logger = build(runner, batch_size_run=size, test_nepisode=4)
    runner.run()
    before = set(logger.logged)
    for _ in range(4 // size - 1):
        runner.run(test_mode=True)
    assert set(logger.logged) == before
    runner.run(test_mode=True)
    assert {name for name in logger.logged if name.startswith("test_")} >= {
        *("test_return_mean", "test_return_std", "test_ep_length_mean", "test_battle_won_mean"),
    }
    seeds = [1] * 4 if size == 1 else [1, 2] * 2
    lengths = [episode_length(seed) for seed in seeds]
    assert logger.logged["test_ep_length_mean"] == [(runner.t_env, np.mean(lengths))]
    returns = [length * (length + 1) / 2 for length in lengths]
    assert logger.logged["test_return_mean"] == [(runner.t_env, np.mean(returns))]
    assert "test_epsilon" not in logger.logged


@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_rewards_of_each_agent(build, runner, size):
    runner, _, logger = build(runner, batch_size_run=size, common_reward=False)
    batch = runner.run()
    assert batch["reward"][0, :3].tolist() == [[1, -2], [2, -4], [3, -6]]
    returns = [length * (length + 1) / 2 for length in (3, 4)[:size]]
    logged = {name: values[0][1] for name, values in logger.logged.items()}
    assert logged["agent_0_return_mean"] == pytest.approx(np.mean(returns))
    assert logged["agent_1_return_mean"] == pytest.approx(-2 * np.mean(returns))
    assert logged["agent_1_return_std"] == pytest.approx(2 * np.std(returns))
    assert logged["total_return_mean"] == pytest.approx(-np.mean(returns))
    assert logged["total_return_std"] == pytest.approx(np.std(returns))
    assert "return_mean" not in logged


def test_the_loop_can_postpone_training_statistics(build):
    runner, _, logger = build("episode")
    runner.t_env = 5000
    runner.log_train_stats_t = 5000
    runner.run()
    assert logger.logged == {}
    assert runner.log_train_stats_t == 5000


@pytest.mark.parametrize("name", PARALLEL)
def test_a_test_is_logged_once_if_training_statistics_are_postponed(build, name):
    runner, _, logger = build(name, batch_size_run=2, test_nepisode=4)
    runner.log_train_stats_t = runner.t_env
    for _ in range(4):
        runner.run(test_mode=True)
    assert [t for t, _ in logger.logged["test_return_mean"]] == [0, 0]
    assert set(logger.logged) == {name for name in logger.logged if name.startswith("test_")}


@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_replays(build, runner, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner, _, _ = build(runner, batch_size_run=size)
    runner.save_replay()
    runner.run()  # a worker has answered by now
    assert (tmp_path / "replay").read_text() == "saved"


@pytest.mark.parametrize("name", PARALLEL)
def test_the_supervised_runner_knows_when_an_evaluation_is_over(build, host, name):
    rounds = 2 if ours(host, name) else 4
    runner, mac, logger = build(name, batch_size_run=2, test_nepisode=4, evaluate=True)
    batches = [runner.run(test_mode=True) for _ in range(4)]
    assert len(mac.hidden) == rounds
    assert len(logger.logged["test_return_mean"]) == rounds // 2
    check_episode(batches[-1], 0, seed=1)


def ours(host, runner):
    """Return True for our runners. EPyMARL's own ignore our keys."""
    return host.name == "bundled" or runner == "supervised_parallel"


@pytest.mark.parametrize("bootstrap", [None, True])
@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_bootstrap_time_limit_leaves_a_truncated_episode_open(build, host, runner, size, bootstrap):
    env_args = {"map_name": "gymnasium", "seed": 2}  # truncated after four steps; the next environment ends after two
    batch = build(runner, batch_size_run=size, env_args=env_args, bootstrap_time_limit=bootstrap)[0].run()
    left_open = bootstrap is True and ours(host, runner)
    assert batch["terminated"][:, :, 0].sum(1).tolist() == [int(not left_open), 1][:size]


@pytest.mark.parametrize(
    ("map_name", "words"),
    [
        ("masked", r"^Agent 1 has no available action at step 1 of environment 0 \(env=fake\)"),
        ("left", r"^env_args\.map_name=left shows 1 of its 2 agents at step 1 of environment 0"),
    ],
)
@pytest.mark.parametrize(("runner", "size"), SIZES)
def test_an_invalid_step_is_refused_with_the_environment_named(build, host, runner, size, map_name, words):
    if not ours(host, runner):
        pytest.skip("EPyMARL's own runner")
    with pytest.raises(ConfigError, match=words):
        build(runner, batch_size_run=size, env_args={"map_name": map_name, "seed": 0})[0].run()
