"""Properties of the learner with every small network, and of policies with memory."""

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.configuration import config_files
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import masked_log_softmax
from tests.algorithms import HOST_DIR, NETWORKS
from tests.learners.compare import differing, farthest, probabilities, tensors

FORMS = [
    *((name, {}) for name in NETWORKS),
    ("updet_mappo", {"updet.recurrent_token": True}),
    ("asn_attention_mappo", {"asn_attention.recurrent": True}),
    ("asn_attention_mappo", {"asn_attention.combine": "inner"}),
    ("dt2gs_mappo", {"dt2gs.subtask_kl_coef": 0.1}),
    *((f"{trunk}_mappo", {"critic_type": f"{trunk}_critic"}) for trunk in ("updet", "asn_attention", "dt2gs")),
]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in changes.items())]) for name, changes in FORMS]
SMALL = {"epochs": 2, "minibatches": 1, "batch_size_run": 3, "lr": 0.003, "critic_lr": 0.003}


@pytest.fixture(params=FORMS, ids=IDS)
def form(request):
    """(algorithm, changes) of each network."""
    return request.param


@pytest.fixture
def build(new_learner, tiny_args):
    """Build a learner of a form, with further changes. ``sizes`` are those of another map."""

    def run(form, changes=None, **sizes):
        algorithm, settings = form
        return new_learner(tiny_args({**SMALL, **settings, **(changes or {})}, algorithm=algorithm, **sizes))

    return run


@pytest.fixture
def updated(build, play):
    """Return (learner, batch) of a form after ``updates`` rounds of playing and learning."""

    def run(form, changes=None, updates=1):
        learner = build(form, changes)
        for i in range(updates):
            batch = play(learner.mac, t_env=i, seed=i)
            learner.train(batch, i, i)
        return learner, batch

    return run


def awake(learner):
    """Return the learner with weights of ordinary size, so that noise and memory have an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.mac.agent.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return learner


def ordered(learner, batch):
    """Return the decisions of a batch and their log-probabilities [decisions, actions]."""
    steps = learner.mac.decisions(batch, (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0)
    with torch.no_grad():
        logits = learner.mac.evaluate(steps, torch.arange(len(steps))).logits
    return steps, masked_log_softmax(logits, steps.available)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_the_first_epoch_evaluates_the_policy_that_played(build, play, form, minibatches):
    learner = awake(build(form, {"minibatches": minibatches}))
    for i in range(3):
        learner.train(play(learner.mac, t_env=i, seed=i), i, i)
    assert learner.logger.logged["ratio_epoch0"] == pytest.approx([1, 1, 1], abs=1e-4)


def test_updates_change_every_weight_of_policy_and_critic(updated, build, form):
    before = tensors(build(form))
    learner, _ = updated(form, updates=3)
    same = before.keys() - differing(before, tensors(learner))
    # Softmax is invariant to a shift of all keys, so their bias has no gradient.
    assert all(name.endswith("key.bias") for name in same), same


def test_results_do_not_depend_on_the_microbatch(updated, form):
    one_by_one, _ = updated(form, {"microbatch": 1})
    at_once, _ = updated(form, {"microbatch": 100_000})
    # If a gradient is rounding noise, its sign may differ, and one step of 0.003 differs by twice that.
    assert farthest(tensors(one_by_one), tensors(at_once)) < 1e-4


def test_two_identical_runs_are_bitwise_equal(updated, form):
    changes = {"minibatches": 2, "critic_minibatches": 2}
    assert differing(tensors(updated(form, changes, 2)[0]), tensors(updated(form, changes, 2)[0])) == set()


def test_another_seed_gives_another_result(updated, form):
    assert differing(tensors(updated(form)[0]), tensors(updated(form, {"seed": 2})[0]))


def test_padding_does_not_affect_training(build, play, form):
    results = []
    for garbage in (False, True):
        learner = build(form)
        batch = play(learner.mac)
        if garbage:
            over = batch["filled"].squeeze(-1) == 0
            for name, value in (("obs", 0.7), ("state", 0.7), ("reward", 50.0)):
                batch[name][over] = value
            batch["avail_actions"][over] = 1
            batch["actions"][over] = 3
        learner.train(batch, 0, 0)
        results.append(tensors(learner))
    assert differing(*results) == set()


def test_a_better_action_becomes_more_probable(build, play, form):
    learner = build(form, {"entropy_coef": 0.0, "epochs": 8})
    batch = play(learner.mac, lengths=(1,) * 64)
    batch["terminated"][:, 0] = 1
    batch["reward"][:, 0] = (batch["actions"][:, 0] == 1).any(1).float()
    _steps, before = ordered(learner, batch)
    learner.train(batch, 0, 0)
    _, after = ordered(learner, batch)
    assert after[:, 1].exp().mean() > before[:, 1].exp().mean() + 0.02


def test_greedy_tests_are_deterministic_and_record_nothing(build, play, form):
    learner = awake(build(form))
    batch = play(learner.mac)
    recorded = {name: batch[name].clone() for name in learner.mac.fields}

    def actions(t_env):
        learner.mac.init_hidden(batch.batch_size)
        return [learner.mac.select_actions(batch, t, t_env, test_mode=True) for t in range(3)]

    assert all(torch.equal(*pair) for pair in zip(actions(0), actions(1), strict=True))
    assert all(torch.equal(value, batch[name]) for name, value in recorded.items())


def test_a_loaded_checkpoint_is_the_same_policy(updated, build, form, tmp_path):
    learner, _batch = updated(form)
    learner.save_models(str(tmp_path))
    again = build(form, {"seed": 7})
    again.load_models(str(tmp_path))
    assert differing(tensors(learner), tensors(again)) == set()


def test_a_checkpoint_loads_on_another_map_unless_its_sizes_are_fixed(updated, build, play, form, tmp_path):
    learner, _ = updated(form)
    learner.save_models(str(tmp_path))
    elsewhere = build(form, n_agents=3, n_enemies=5)
    if form[0] == "rnn_mappo":
        sentence = r"trained on smax 2m_vs_2z \(2 agents.*cannot play smax 3m_vs_5z \(3 agents.*--config=updet_mappo"
        with pytest.raises(ConfigError, match=sentence):
            elsewhere.load_models(str(tmp_path))
        return
    elsewhere.load_models(str(tmp_path))
    assert differing(tensors(learner), tensors(elsewhere)) == set()
    elsewhere.train(play(elsewhere.mac), 0, 0)
    assert elsewhere.logger.logged["ratio_epoch0"] == pytest.approx([1], abs=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("updet_mappo", {"entity.role_flag": False}),
        ("updet_mappo", {"updet.heads": 2}),
        ("updet_mappo", {"critic_type": "updet_critic"}),
        ("dt2gs_mappo", {"dt2gs.subtasks": 6}),
        ("asn_attention_mappo", {"asn_attention.combine": "inner"}),
    ],
)
def test_a_checkpoint_with_other_settings_is_refused_and_the_key_named(build, updated, algorithm, changes, tmp_path):
    learner, _ = updated((algorithm, {}))
    learner.save_models(str(tmp_path))
    key = next(iter(changes))
    with pytest.raises(ConfigError, match=rf"trained with {key}=.* but this run has {key}="):
        build((algorithm, changes)).load_models(str(tmp_path))


def test_a_checkpoint_of_another_algorithm_is_refused(build, updated, tmp_path):
    learner, _ = updated(("updet_mappo", {}))
    learner.save_models(str(tmp_path))
    sentence = r"trained by updet_mappo \(agent=updet\) but this run is dt2gs_mappo .*set --config=updet_mappo"
    with pytest.raises(ConfigError, match=sentence):
        build(("dt2gs_mappo", {})).load_models(str(tmp_path))


RECURRENT = [form for form in FORMS if "recur" in str(form) or form[0] in ("rnn_mappo", "updet_paper", "dt2gs_mappo")]


@pytest.mark.parametrize("form", RECURRENT, ids=str)
def test_minibatches_of_a_policy_with_memory_hold_whole_episodes(build, play, form):
    learner = build(form, {"minibatches": 2})
    batch = play(learner.mac)
    steps = learner.mac.decisions(batch, batch["filled"][:, 1:].squeeze(-1) > 0)
    parts = [set(steps.index[0][rows].tolist()) for rows in learner._minibatches(steps, 0, 0)]
    assert len(parts) == 2
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {0, 1, 2}


@pytest.mark.parametrize("form", RECURRENT, ids=str)
def test_memory_lasts_for_an_episode_and_is_reset_for_the_next(build, play, form):
    learner = awake(build(form))
    batch = play(learner.mac)
    memories = []
    for earlier in (False, True, False):  # the same step, with and without one before it
        learner.mac.init_hidden(batch.batch_size)
        if earlier:
            probabilities(learner.mac, batch, 0)
        probabilities(learner.mac, batch, 1)
        memories.append(learner.mac.hidden)
    assert not torch.allclose(memories[0], memories[1])
    assert torch.equal(memories[0], memories[2])


@pytest.mark.parametrize("form", [("dt2gs_mappo", {}), ("updet_mappo", {})], ids=str)
def test_replayed_episodes_replace_the_lost_ones(build, play, form):
    """A supervised runner may play an episode of a batch again; its latest noise and log-probabilities count."""
    learner = awake(build(form))
    batch = play(learner.mac)
    learner.mac.init_hidden(batch.batch_size)
    for t in range(int(batch["filled"][1].sum())):
        actions = learner.mac.select_actions(batch, t, 0, bs=[1])
        batch.update({"actions": actions}, [1], t, mark_filled=False)
    learner.train(batch, 0, 0)
    assert learner.logger.logged["ratio_epoch0"] == pytest.approx([1], abs=1e-4)


@pytest.mark.parametrize(("mode", "exact"), [("stored", True), ("frozen", False), ("redraw", False)])
def test_the_ratio_is_1_only_with_the_stored_noise(build, play, mode, exact):
    learner = awake(build(("dt2gs_mappo", {"dt2gs.noise_mode": mode})))
    batch = play(learner.mac, lengths=(4,) * 8)
    learner.train(batch, 0, 0)
    assert (abs(learner.logger.logged["ratio_epoch0"][0] - 1) < 1e-4) == exact


@pytest.mark.parametrize(("mode", "same"), [("stored", True), ("frozen", True), ("redraw", False)])
def test_noise_is_constant_during_an_update_unless_redrawn(build, play, mode, same):
    learner = awake(build(("dt2gs_mappo", {"dt2gs.noise_mode": mode})))
    batch = play(learner.mac)
    steps = learner.mac.decisions(batch, batch["filled"][:, 1:].squeeze(-1) > 0)
    with torch.no_grad():
        first, second = (learner.mac.evaluate(steps, torch.arange(len(steps))).logits for _ in range(2))
    assert torch.equal(first, second) == same


def test_sampled_tests_draw_noise(build, play):
    learner = awake(build(("dt2gs_mappo", {"test_greedy": False})))
    batch = play(learner.mac, lengths=(2,) * 16)
    picks = []
    for t_env in (0, 0, 5):  # the same test again, and another one
        learner.mac.init_hidden(batch.batch_size)
        acting = learner.mac.act(batch, 0, t_env, torch.ones(batch.batch_size, dtype=torch.bool), test_mode=True)
        picks.append(acting.subtask)
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[1], picks[2])
    assert picks[0].unique().numel() > 1, "all episodes drew the same"


def test_losses_and_stats_of_a_policy_are_logged(updated):
    learner, _ = updated(("dt2gs_mappo", {"critic_type": "dt2gs_critic", "dt2gs.subtask_kl_coef": 0.1}), updates=2)
    logged = learner.logger.logged
    for name in ("reconstruction", "subtask_kl"):
        for who in ("", "critic_"):
            assert min(logged[f"{who}{name}_loss"]) >= 0
    assert logged["reconstruction_loss"][0] > 0
    shares = [sum(logged[f"subtask_{k}"][i] for k in range(4)) for i in range(2)]
    assert shares == pytest.approx([1, 1])
    looks = [sum(logged[f"attention_{who}"][i] for who in ("own", "allies", "enemies")) for i in range(2)]
    assert looks == pytest.approx([1, 1])
    assert {"actor_grad_norm", "critic_grad_norm", "entropy", "agent_steps_per_second"} <= logged.keys()
    assert not {"prompt_tokens_mean", "llm_time_share"} & logged.keys()
    assert all(type(value) is float and abs(value) < 1e6 for row in logged.values() for value in row)


def test_an_auxiliary_loss_is_weighted_by_its_coefficient(updated):
    losses = [
        updated(("dt2gs_mappo", {"dt2gs.reconstruction_coef": coef, "epochs": 1}))[0].logger.logged for coef in (1.0, 3)
    ]
    assert losses[1]["reconstruction_loss"] == pytest.approx([3 * losses[0]["reconstruction_loss"][0]])
    without, _ = updated(("dt2gs_mappo", {"dt2gs.reconstruction_coef": 0.0}))
    assert "reconstruction_loss" not in without.logger.logged


def test_last_actions_and_agent_ids_are_inputs_of_the_gru(build):
    widths = [
        build(("rnn_mappo", {"obs_agent_id": ids, "obs_last_action": last})).mac.agent.input_size
        for ids, last in ((False, False), (True, False), (False, True))
    ]
    assert [width - widths[0] for width in widths] == [0, 2, 8]  # agents, actions


def test_every_registered_network_is_tested_here():
    tested = {config_files.resolve(name, "probe", HOST_DIR).config["agent"] for name, _ in FORMS}
    assert tested == set(registry.ENTRIES["agent"]) - {"llm"}
