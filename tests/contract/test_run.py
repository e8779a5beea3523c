"""Whole runs of the fakes: episodes have 3 steps, so the environment steps are 3, 6, 9, 12."""

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import BUNDLED
from lolm_plugin.randomness import environment_seed
from lolm_plugin.run import loop

from .fakes import FakeEnv, FakeLearner, FakeMAC, Scalars, episode_length, settings

FILES = {"bundled": "../../run/loop.py", "EPyMARL": "src/run.py"}

# EPyMARL's own indexing; see host/epymarl.py.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")

DEFAULT_KEYS = """
    runner mac env common_reward reward_scalarisation env_args batch_size_run test_nepisode test_interval test_greedy
    log_interval runner_log_interval learner_log_interval t_max use_cuda buffer_cpu_only use_tensorboard use_wandb
    wandb_team wandb_project wandb_mode wandb_save_model save_model save_model_interval checkpoint_path evaluate
    render load_step save_replay local_results_path gamma batch_size buffer_size lr optim_alpha optim_eps
    grad_norm_clip add_value_last_step agent hidden_dim obs_agent_id obs_last_action repeat_id label hypergroup
"""


@pytest.fixture(params=["the host's loop", "our loop"])
def ours(request, host):
    """Return True if our loop runs. It also saves at the end and continues a checkpoint's counters."""
    return request.param == "our loop" or host.name == "bundled"


@pytest.fixture
def play(host, ours, monkeypatch, tmp_path):
    """``play(t_max=10)`` runs a loop with the host's components; returns the learner and the values that Sacred got."""
    monkeypatch.chdir(tmp_path)
    learners = []

    def learner(mac, scheme, logger, args):
        learners.append(FakeLearner(mac, scheme, logger, args))
        return learners[-1]

    monkeypatch.setitem(host.registries["env"], "fake", FakeEnv)
    monkeypatch.setitem(host.registries["mac"], "fake", FakeMAC)
    monkeypatch.setitem(host.registries["learner"], "fake", learner)

    def run(**changes):
        sacred = Scalars()
        run = partial(loop.run, host) if ours else host.run
        size = changes.get("batch_size_run", 1)  # our loop learns from exactly the played episodes
        sizes = {"batch_size": size, "buffer_size": size}
        run(sacred, settings(host, **sizes, **changes), logging.getLogger("contract"))
        return learners[-1], sacred.logged

    return run


def checkpoints(folder="results"):
    runs = list(Path(folder, "models").iterdir())
    assert len(runs) == 1
    return runs[0], sorted(int(step.name) for step in runs[0].iterdir())


def test_training(play, host, ours, caplog):
    caplog.set_level(logging.INFO)
    learner, logged = play(t_max=10, test_interval=5, log_interval=6, runner_log_interval=6)
    # The third argument counts the episodes before this one.
    assert [(t_env, episode) for _, t_env, episode in learner.trained] == [(3, 0), (6, 1), (9, 2), (12, 3)]
    for batch, _, _ in learner.trained:
        assert isinstance(batch, host.EpisodeBatch)
        assert (batch.batch_size, batch.max_seq_length) == (1, 4)
        assert batch["reward"][:, :, 0].tolist() == [[1, 2, 3, 0]]
        assert batch["actions_onehot"][:, 1, 0].tolist() == [[0, 1, 0]]
    tested = [call["t_env"] for call in learner.mac.calls if call["test_mode"] and call["t_ep"] == 0]
    # Our loop also tests the untrained and the final policy.
    expected = [0, 6, 12] if ours else [3, 9]
    assert tested == [t for t in expected for _ in range(2)]
    assert logged["test_return_mean"] == [(t, 6.0) for t in expected]
    assert logged["return_mean"] == [(3, 6.0), (9, 6.0)]
    assert logged["loss"] == [(3, 1.0), (6, 0.5), (9, pytest.approx(1 / 3)), (12, 0.25)]
    assert logged["episode"] == [(6, 2), (12, 4)]
    assert "Beginning training for 10 timesteps" in caplog.text
    assert f"t_env: {6 if ours else 9} / 10" in caplog.text
    assert "Finished Training" in caplog.text
    recent = [record.message for record in caplog.records if "Recent Stats" in record.message]
    assert len(recent) == 2
    assert "Episode:        4" in recent[-1]
    assert "loss:" in recent[-1]
    assert "0.5208" in recent[-1]  # mean of the last losses
    assert not Path("results", "models").exists()


def test_components_know_the_sizes(play):
    learner, _ = play(t_max=1)
    args = learner.args
    assert (args.n_agents, args.n_actions, args.state_shape, args.device) == (2, 3, 5, "cpu")
    assert learner.mac.args is args
    assert learner.mac.groups == {"agents": 2}
    shapes = {key: info["vshape"] for key, info in learner.scheme.items()}
    assert shapes == {
        "state": 5,
        "obs": 3,
        "actions": (1,),
        "avail_actions": (3,),
        "terminated": (1,),
        "reward": (1,),
        "actions_onehot": (3,),
        "filled": (1,),
    }
    assert set(learner.mac.scheme) == set(shapes)


def test_learners_may_log_and_write_to_the_console(play, caplog):
    learner, _ = play(t_max=10)
    caplog.set_level(logging.INFO)
    learner.logger.console_logger.info("a word")
    assert "a word" in caplog.text
    assert learner.logger.stats["loss"][0] == (3, 1.0)


def test_rewards_of_each_agent(play):
    learner, _ = play(t_max=4, common_reward=False)
    assert learner.scheme["reward"]["vshape"] == (2,)
    assert learner.trained[0][0]["reward"][0, 2].tolist() == [3, -6]


def test_parallel_runner_and_rounding_of_tests(play, host, ours, caplog):
    learner, logged = play(runner="parallel", batch_size_run=2, t_max=10, test_nepisode=5, test_interval=100)
    # Five test episodes are two batches and a half; EPyMARL's runner plays whole batches, and its seeds are seed + i.
    exact = host.name == "bundled"
    first, second = (episode_length(environment_seed(1, i) if exact else 1 + i) for i in range(2))
    assert first != second, "four and five episodes would have the same mean"
    batch = first + second
    ends = [batch * (i + 1) for i in range(10 // batch + 1)]  # the first one beyond t_max is the last
    assert learner.args.test_nepisode == (5 if exact else 4)
    tested = [0, ends[-1]] if ours else [batch]
    mean = (3 * first + 2 * second) / 5 if exact else batch / 2
    assert logged["test_ep_length_mean"] == [(t, pytest.approx(mean)) for t in tested]
    assert ("Tests have 4 episodes instead of test_nepisode=5" in caplog.text) == (ours and not exact)
    assert [(t_env, episode) for _, t_env, episode in learner.trained] == [(t, 2 * i) for i, t in enumerate(ends)]


def test_a_test_may_be_smaller_than_a_batch(play, host):
    learner, logged = play(runner="parallel", batch_size_run=2, t_max=1, test_nepisode=1)
    assert learner.args.test_nepisode == (1 if host.name == "bundled" else 2)
    assert logged["test_ep_length_mean"][0][1] == (3 if host.name == "bundled" else 3.5)


@pytest.mark.parametrize("runner", ["episode", "parallel", "supervised_parallel"])
def test_a_sampled_test_follows_each_greedy_test_with_its_own_metric_names(play, host, ours, runner):
    if not ours:
        pytest.skip("EPyMARL's loop has no sampled tests")
    size = 1 if runner == "episode" else 2
    learner, logged = play(runner=runner, batch_size_run=size, t_max=10, test_nepisode=4, test_sampled=True)
    starts = [call for call in learner.mac.calls if call["test_mode"] and call["t_ep"] == 0]
    rounds = 4 // size
    assert [call["sampled"] for call in starts] == ([False] * rounds + [True] * rounds) * (len(starts) // rounds // 2)
    names = {name.removeprefix("test_sampled_") for name in logged if name.startswith("test_sampled_")}
    assert {"return_mean", "battle_won_mean", "ep_length_mean"} <= names
    for name in names:
        assert [t for t, _ in logged[f"test_sampled_{name}"]] == [t for t, _ in logged[f"test_{name}"]] != []
    plain, without = play(runner=runner, batch_size_run=size, t_max=10, test_nepisode=4)
    assert not [name for name in without if name.startswith("test_sampled_")]
    assert len(learner.mac.calls) > len(plain.mac.calls)


def test_tests_that_sample_already_are_played_once(play, ours):
    _, logged = play(t_max=1, test_greedy=False, test_sampled=True)
    assert not [name for name in logged if name.startswith("test_sampled_")]


def test_use_cuda_is_switched_off_without_cuda(play, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    learner, _ = play(t_max=1, use_cuda=True)
    assert learner.args.use_cuda is False
    assert learner.args.device == "cpu"


def test_saving_and_loading(play, ours):
    learner, _ = play(t_max=10, save_model=True, save_model_interval=5)
    folder, steps = checkpoints()
    assert steps == ([3, 9, 12] if ours else [3, 9])
    assert folder.name == learner.args.unique_token
    assert folder.name.startswith("fake_seed1_field_")

    last, _ = play(t_max=10, checkpoint_path=str(folder), load_step=9)
    # Three updates were made by environment step 9; one more episode goes past t_max.
    assert last.steps == 4
    assert [call["t_env"] for call in last.mac.calls if call["t_ep"] == 0 and not call["test_mode"]] == [9]

    nearest, _ = play(t_max=6, checkpoint_path=str(folder), load_step=5)
    assert nearest.mac.calls[0]["t_env"] == 3
    assert nearest.trained[0][1:] == (6, 1 if ours else 0)


def test_evaluation_tests_and_stops(play, caplog):
    play(t_max=10, save_model=True, save_model_interval=5)
    folder, _ = checkpoints()
    caplog.set_level(logging.INFO)
    learner, logged = play(checkpoint_path=str(folder), load_step=9, evaluate=True)
    assert learner.trained == []
    assert learner.steps == 3
    assert all(call["test_mode"] and call["t_env"] == 9 for call in learner.mac.calls)
    assert len([call for call in learner.mac.calls if call["t_ep"] == 0]) == 2
    assert logged["test_return_mean"] == [(9, 6.0)]
    assert "return_mean" not in logged
    assert "Finished Evaluation" in caplog.text


def test_evaluation_postpones_training_statistics(play, host, monkeypatch):
    runners = []

    def runner(**parts):
        runners.append(host.registries["runner"]["episode"](**parts))
        return runners[-1]

    monkeypatch.setitem(host.registries["runner"], "kept", runner)
    play(runner="kept", t_max=1, save_model=True)
    play(runner="kept", checkpoint_path=str(checkpoints()[0]), load_step=3, evaluate=True)
    assert (runners[1].t_env, runners[1].log_train_stats_t) == (3, 3)


def test_replays(play):
    play(t_max=1, save_model=True)
    folder, _ = checkpoints()
    learner, _ = play(checkpoint_path=str(folder), save_replay=True)
    assert learner.trained == []
    assert Path("replay").read_text() == "saved"


def test_environments_may_be_named_by_key(play, host, monkeypatch):
    monkeypatch.setitem(host.registries["env"], "fake", lambda key, **rest: FakeEnv(map_name=key, **rest))
    learner, _ = play(t_max=1, env_args={"key": "meadow", "seed": 1})
    assert learner.args.unique_token.startswith("fake_seed1_meadow_")


def test_default_keys_and_values(host):
    defaults = yaml.safe_load((host.config_dir / "default.yaml").read_text())
    assert sorted(defaults) == sorted(DEFAULT_KEYS.split())
    assert defaults == yaml.safe_load((BUNDLED / "config/default.yaml").read_text())


def test_bootstrap_time_limit_is_refused_with_epymarls_own_runners():
    asked = {"runner": "parallel", "env": "gymma", "bootstrap_time_limit": True}
    with pytest.raises(ConfigError, match=r"EPyMARL's runner=parallel.*set runner=supervised_parallel"):
        loop._check_runner(SimpleNamespace(name="EPyMARL"), SimpleNamespace(**asked))
    # StarCraft reports a time limit in its info, which EPyMARL's runner reads. The bundled host's runners are ours.
    for name, change in (
        ("EPyMARL", {"env": "sc2"}),
        ("EPyMARL", {"runner": "vector"}),
        ("EPyMARL", {"bootstrap_time_limit": None}),
        ("bundled", {}),
    ):
        loop._check_runner(SimpleNamespace(name=name), SimpleNamespace(**{**asked, **change}))
