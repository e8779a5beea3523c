"""Updates of the tiny language model: what they change, and what they must not depend on."""

from types import SimpleNamespace

import pytest
import torch

from lolm_plugin.checkpoints import Checkpoint
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import kl_divergence, masked_log_softmax
from lolm_plugin.run.transfer import transfer
from tests.learners.compare import differing, farthest, probabilities, tensors


@pytest.fixture
def updated(new_learner, tiny_args, play):
    """Return (learner, batch) after ``updates`` rounds of playing and learning. ``changes`` are dotted keys."""

    def run(changes=None, updates=1, t_env=0, **playing):
        learner = new_learner(tiny_args(changes))
        for i in range(updates):
            batch = play(learner.mac, t_env=t_env + i, seed=i, **playing)
            learner.train(batch, t_env + i, i)
        return learner, batch

    return run


def test_an_update_changes_only_adapter_head_and_critic(new_learner, tiny_args, play):
    learner = new_learner(tiny_args())
    before = tensors(learner)
    learner.train(play(learner.mac), 0, 0)
    trained = {name for name in before if "lora_" in name or name.startswith(("head.", "critic.", "value_normaliser."))}
    assert len(trained) < len(before)
    assert differing(before, tensors(learner)) == trained


def test_dead_agents_and_padding_are_not_evaluated(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"epochs": 3, "learner_log_interval": 10**6}))
    batch = play(learner.mac)
    learner.mac.agent.pop_usage()
    evaluated = []
    read = learner.mac.agent.read
    learner.mac.agent.read = lambda prompts, reference=False, **budget: (
        evaluated.append((len(prompts), reference)) or read(prompts, reference, **budget)
    )
    learner.train(batch, 0, 0)
    assert sum(count for count, reference in evaluated if reference) == 12  # once by the frozen model
    assert sum(count for count, reference in evaluated if not reference) == 3 * 12  # once per epoch


def test_dead_agents_and_padding_do_not_affect_training(new_learner, tiny_args, play):
    results = []
    for garbage in (False, True):
        learner = new_learner(tiny_args())
        batch = play(learner.mac)
        if garbage:
            over = batch["filled"].squeeze(-1) == 0
            for name, value in (("obs", 0.7), ("state", 0.7), ("reward", 50.0)):
                batch[name][over] = value
            batch["avail_actions"][over] = 1
            batch["actions"][over] = 3
            batch["obs"][:, 1:, -1] = 0.7  # the dead agent's
        learner.train(batch, 0, 0)
        results.append(tensors(learner))
    assert farthest(*results) < 1e-6  # the critic's sums have other terms, so the last bit may differ


def test_the_first_epoch_evaluates_the_policy_that_played(updated):
    for minibatches in (1, 3):
        learner, _ = updated({"minibatches": minibatches}, updates=3)
        assert learner.logger.logged["ratio_epoch0"] == pytest.approx([1, 1, 1], abs=1e-4)


def test_the_ratio_differs_from_1_if_another_policy_played(new_learner, tiny_args, play):
    learner = new_learner(tiny_args())
    batch = play(learner.mac)
    with torch.no_grad():
        learner.mac.agent.head.base += torch.randn_like(learner.mac.agent.head.base)
    learner.mac.ratio_tolerance = lambda: float("inf")  # otherwise the batch is refused: tests/test_checks.py
    learner.train(batch, 0, 0)
    assert abs(learner.logger.logged["ratio_epoch0"][0] - 1) > 0.1


def test_results_do_not_depend_on_the_token_budget(updated):
    one_by_one, _ = updated({"llm.token_budget": 64})
    at_once, _ = updated({"llm.token_budget": 100_000})
    assert farthest(tensors(one_by_one), tensors(at_once)) < 1e-5


def test_two_identical_runs_are_bitwise_equal(updated):
    changes = {"minibatches": 2}
    assert differing(tensors(updated(changes, updates=2)[0]), tensors(updated(changes, updates=2)[0])) == set()


def test_another_seed_gives_another_result(updated):
    assert differing(tensors(updated()[0]), tensors(updated({"seed": 2})[0]))


@pytest.mark.parametrize("minibatches", [2, 5, 100])
def test_each_epoch_takes_one_step_per_minibatch_of_decisions(updated, minibatches):
    learner, _ = updated({"minibatches": minibatches, "epochs": 2})
    steps = learner.actor_optimiser.state_dict()["state"][0]["step"]
    assert steps == 2 * min(minibatches, 12)
    assert learner.critic_optimiser.state_dict()["state"][0]["step"] == 2


def test_minibatches_have_every_decision_once_in_a_new_order(new_learner, tiny_args):
    learner = new_learner(tiny_args({"minibatches": 3}))
    orders = [
        torch.cat(list(learner._random_parts(12, 3, "minibatch", t_env, epoch))).tolist()
        for t_env, epoch in ((0, 0), (0, 1), (8, 0))
    ]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_with_learning_rate_0_every_epoch_has_the_same_gradients(updated):
    still = {"lr": 0.0, "head_lr": 0.0, "critic_lr": 0.0, "kl.enabled": False}
    once, thrice = (updated({**still, "epochs": epochs})[0].logger.logged for epochs in (1, 3))
    for name in ("lora_grad_norm", "head_grad_norm", "critic_grad_norm", "policy_loss", "value_loss"):
        assert once[name] == pytest.approx(thrice[name])
        assert once[name] != [0]


def test_value_statistics_are_of_the_returns_of_valid_steps(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"gamma": 1.0, "gae_lambda": 1.0}))
    batch = play(learner.mac, lengths=(4, 2, 3))
    batch["reward"][:] = 1
    batch["terminated"][0, 3] = 1
    learner.train(batch, 0, 0)
    mean = learner.value_normaliser.denormalise(torch.zeros(()))
    assert mean.item() == pytest.approx((4 + 3 + 2 + 1 + 2 + 1 + 3 + 2 + 1) / 9)


def test_a_better_action_becomes_more_probable(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"kl.enabled": False, "entropy_coef": 0.0}))
    batch = play(learner.mac, lengths=(1,) * 16)
    batch["terminated"][:, 0] = 1
    batch["reward"][:, 0] = (batch["actions"][:, 0] == 1).any(1).float()
    before = probabilities(learner.mac, batch, 0)[..., 1].mean()
    learner.train(batch, 0, 0)
    assert probabilities(learner.mac, batch, 0)[..., 1].mean() > before + 0.05


def test_the_kl_keeps_the_policy_close_to_its_reference(updated):
    drift = []
    for changes in ({"kl.enabled": False}, {"kl.coef_max": 1000.0, "kl.eps": 1e-9}):
        learner, batch = updated({"epochs": 6, **changes})
        steps = learner.mac.decisions(batch, batch["filled"][:, 1:].squeeze(-1) > 0)
        with torch.no_grad():
            log_policy = masked_log_softmax(
                learner.mac.evaluate(steps, torch.arange(len(steps))).logits, steps.available
            )
        frozen = learner.mac.reference_logits(learner.mac.reference_states(steps))
        drift.append(kl_divergence(log_policy, masked_log_softmax(frozen, steps.available)).mean())
    assert drift[1] < 0.3 * drift[0]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_kl_coefficient_is_logged_and_reaches_0(updated, direction):
    learner, _ = updated({"kl.anneal_steps": 2, "kl.direction": direction}, updates=3)
    initial = learner.kl.initial
    assert learner.logger.logged["kl_coef"] == [initial, initial / 2, 0]
    kl_losses = learner.logger.logged["kl_loss"]
    assert kl_losses[1] > kl_losses[0] > 0
    assert kl_losses[2] == 0


def test_the_kl_coefficient_is_measured_when_the_policies_differ(updated):
    # Before the first step |L_mappo| without entropy is rounding noise, and so would be the balanced coefficient.
    learner, _ = updated({"entropy_coef": 0.0, "kl.coef_max": 1e9, "minibatches": 1})
    assert learner.kl.initial > 10


def test_without_a_kl_the_frozen_model_is_not_evaluated(updated):
    learner, _ = updated({"kl.enabled": False})
    assert learner.logger.logged["kl_coef"] == [0]
    assert learner.logger.logged["kl_loss"] == [0]
    assert learner.kl.initial is None


def test_the_directions_of_the_kl_differ(updated):
    results = [tensors(updated({"kl.direction": direction}, updates=2)[0]) for direction in ("forward", "reverse")]
    assert differing(*results)


def test_learning_rates_decay_to_0_at_t_max_if_set(updated):
    rates = {"lr": 0.004, "head_lr": 0.002, "critic_lr": 0.008}
    learner, batch = updated({"lr_decay": True, "t_max": 100, **rates}, t_env=75)
    assert [group["lr"] for group in learner._groups()] == [0.001, 0.0005, 0.002]
    before = tensors(learner)
    learner.mac.ratio_tolerance = lambda: float("inf")  # the policy was already updated on this batch
    learner.train(batch, 100, 1)
    assert {name.split(".")[0] for name in differing(before, tensors(learner))} <= {"value_normaliser"}


def test_learning_rates_are_constant_otherwise(updated):
    rates = {"lr": 0.004, "head_lr": 0.002, "critic_lr": 0.008, "lr_decay": False}
    learner, _ = updated(rates, t_env=10**6)
    assert [group["lr"] for group in learner._groups()] == [0.004, 0.002, 0.008]


def test_logged_prompt_lengths_are_of_the_rollout_only(new_learner, tiny_args, play):
    learner = new_learner(tiny_args())
    expected = []
    for seed, unseen in ((0, 0.0), (1, 1.0)):
        batch = play(learner.mac, t_env=seed, seed=seed, unseen=unseen)
        decided = (batch["avail_actions"][:, :-1].sum(-1) > 1) & (batch["filled"][:, 1:] > 0)
        index = decided.nonzero(as_tuple=True)
        prompter = learner.mac.agent.prompter
        sequences = prompter.encode(batch["obs"][:, :-1][index], batch["avail_actions"][:, :-1][index], index[2])
        expected.append(len(prompter.prefix) + sum(map(len, sequences)) / len(sequences))
        learner.train(batch, seed, seed)
    assert learner.logger.logged["prompt_tokens_mean"] == pytest.approx(expected)


def test_statistics_are_logged_at_the_interval(updated):
    learner, _ = updated({"learner_log_interval": 2}, updates=4)
    counts = {name: len(values) for name, values in learner.logger.logged.items()}
    assert set(counts.values()) == {2}


def test_everything_logged_is_a_finite_number(updated):
    learner, _ = updated(updates=2)
    logged = learner.logger.logged
    assert {
        *("policy_loss", "kl_loss", "kl_coef", "entropy", "ratio_epoch0", "clip_fraction", "approx_kl"),
        *("value_loss", "explained_variance", "lora_grad_norm", "head_grad_norm", "critic_grad_norm"),
        *("prompt_tokens_mean", "agent_steps_per_second", "llm_time_share", "entropy_coef"),
        *("ratio_deviation_p99", "ratio_deviation_mean"),
    } == logged.keys()
    assert all(type(value) is float and value == value and abs(value) < 1e6 for row in logged.values() for value in row)


def test_a_batch_without_decisions_trains_only_the_critic(new_learner, tiny_args, play):
    learner = new_learner(tiny_args())
    batch = play(learner.mac)
    batch["avail_actions"][..., 1:] = 0
    before = tensors(learner)
    learner.train(batch, 0, 0)
    changed = differing(before, tensors(learner))
    assert changed
    assert all(name.startswith(("critic.", "value_normaliser.")) for name in changed)


def test_a_critic_of_epymarl_is_refused_and_the_supported_ones_named(new_learner, tiny_args):
    with pytest.raises(ConfigError, match=r"critic_type=cv_critic .* set it to one of: transformer_critic"):
        new_learner(tiny_args({"critic_type": "cv_critic"}))


def test_a_kl_with_the_initial_head_also_measures_changes_of_the_head(updated):
    # Only the head learns, so policy and frozen model have equal logits through the current head.
    kls = {}
    for head in ("current", "initial"):
        learner, _ = updated({"kl.head": head, "lr": 1e-12, "head_lr": 0.01}, updates=3)
        kls[head] = learner.logger.logged["kl_loss"][-1]
    assert kls["initial"] > 1e-3
    assert kls["current"] < 1e-2 * kls["initial"]


def test_the_initial_head_is_restored_from_a_checkpoint(updated, new_learner, tiny_args, tmp_path):
    learner, _ = updated({"kl.head": "initial"})
    learner.save_models(str(tmp_path))
    other = new_learner(tiny_args({"kl.head": "initial", "seed": 5}))
    other.load_models(str(tmp_path))
    assert torch.equal(other.mac.agent.initial_head.base, learner.mac.agent.initial_head.base)
    assert not torch.equal(other.mac.agent.initial_head.base, other.mac.agent.head.base)


SOURCE = {"kl.reference": "source", "kl.enabled": True, "lr": 0.01, "head_lr": 0.01}


def log_policies(mac, steps):
    rows = torch.arange(len(steps))
    with torch.no_grad():
        policy = masked_log_softmax(mac.evaluate(steps, rows).logits, steps.available)
        reference = masked_log_softmax(mac.reference_logits(mac.reference_states(steps)), steps.available)
    return policy, reference


def test_a_kl_to_the_source_begins_at_zero_and_its_reference_is_fixed(updated, new_learner, tiny_args, play, tmp_path):
    trained, _ = updated({"lr": 0.01, "head_lr": 0.01}, updates=2)
    (tmp_path / "5").mkdir()
    trained.save_models(str(tmp_path / "5"))
    learner = new_learner(tiny_args(SOURCE))
    learner.args.transfer_critic = True
    transfer(SimpleNamespace(learner=learner, args=learner.args, logger=learner.logger), Checkpoint(tmp_path / "5", {}))
    batch = play(learner.mac)
    steps = learner.mac.decisions(batch, batch["filled"][:, :-1].squeeze(-1) > 0)
    source, reference = log_policies(learner.mac, steps)
    torch.testing.assert_close(source, reference)
    learner.train(batch, 0, 0)
    policy, reference = log_policies(learner.mac, steps)
    torch.testing.assert_close(source, reference)  # the reference has not changed
    assert (policy - source)[steps.available].abs().max() > 0.01

    learner.save_models(str(tmp_path))
    resumed = new_learner(tiny_args({**SOURCE, "seed": 5}))
    resumed.load_models(str(tmp_path))
    again, reference = log_policies(resumed.mac, steps)
    torch.testing.assert_close(again, policy, atol=0, rtol=0)
    torch.testing.assert_close(source, reference)


def test_adapter_and_head_are_clipped_separately_if_set(updated, monkeypatch):
    clipped = []
    clip = torch.nn.utils.clip_grad_norm_

    def counted(parameters, norm):
        parameters = list(parameters)
        clipped.append(len(parameters))
        return clip(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", counted)
    learner, _ = updated({"clip_per_group": True, "epochs": 1})
    sizes = [len(group["params"]) for group in learner.actor_optimiser.param_groups]
    assert clipped[:2] == sizes
    learner, _ = updated({"epochs": 1})
    assert clipped[-2] == sum(sizes)  # the last one is the critic's


def test_the_adapter_has_a_separate_epsilon(updated):
    learner, _ = updated({"lora.optim_eps": 1e-8, "optim_eps": 1e-5})
    assert [group["eps"] for group in learner.actor_optimiser.param_groups] == [1e-8, 1e-5]
    learner, _ = updated({"optim_eps": 1e-5})
    assert [group["eps"] for group in learner.actor_optimiser.param_groups] == [1e-5, 1e-5]


def test_advantages_small_relative_to_the_returns_stay_small(new_learner, tiny_args, play):
    deviations = {}
    for floor in (0.0, 100.0):
        learner = new_learner(tiny_args({"advantage_floor": floor}))
        batch = play(learner.mac)
        learner.train(batch, 0, 0)  # updates the value normaliser with the returns
        steps = learner.mac.decisions(batch, batch["filled"][:, :-1].squeeze(-1) > 0)
        shape = (*batch["filled"][:, :-1].shape[:2], learner.n_agents)
        raw = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        normal = learner._normalised_advantages(raw, torch.ones_like(raw), steps)
        deviations[floor] = (float(normal.std()), float(raw[steps.index].std() / learner.value_normaliser.deviation))
    assert deviations[0.0][0] == pytest.approx(1.0, abs=0.05)
    assert deviations[100.0][0] == pytest.approx(deviations[100.0][1] / 100, rel=0.05)


def test_the_policys_update_stops_at_the_target_kl(new_learner, tiny_args, play):
    steps = {}
    for target in (None, 1e-9):
        learner = new_learner(tiny_args({"target_kl": target, "epochs": 4}))
        learner.train(play(learner.mac), 0, 0)
        states = learner.actor_optimiser.state, learner.critic_optimiser.state
        steps[target] = [int(next(iter(state.values()))["step"]) for state in states]
    assert steps[None] == [4, 4]
    assert steps[1e-9] == [2, 4]  # the second step measures the KL of the first; the critic uses all epochs


@pytest.mark.parametrize(("t_env", "weight"), [(0, 0.5), (50, 0.3), (100, 0.1), (200, 0.1)])
def test_the_entropy_coefficient_follows_its_schedule(t_env, weight, updated):
    changes = {"kl.enabled": False, "normalise_advantages": False, "t_max": 100, "epochs": 1}
    scheduled, constant = (
        updated({**changes, **entropy}, t_env=t_env)[0]
        for entropy in ({"entropy_coef": 0.5, "entropy_coef_end": 0.1}, {"entropy_coef": weight})
    )
    assert scheduled.logger.logged["policy_loss"] == constant.logger.logged["policy_loss"]


@pytest.mark.parametrize("changes", [{}, {"llm.train": "full", "kl.enabled": False}])
def test_feature_statistics_come_from_the_first_batch(changes, new_learner, tiny_args, play):
    args = {"head.features": "normalised", "head.attack_keys": "entity", "minibatches": 2, **changes}
    learner = new_learner(tiny_args(args))
    batch = play(learner.mac)
    agent = learner.mac.agent
    made_up = agent.head.normaliser.mean.clone()
    valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0
    steps = learner.mac.decisions(batch, valid)
    read = learner.mac._read(steps.prompts)[steps.prompt_ids]  # before the first step this is the policy, too
    learner.train(batch, 0, 0)
    assert learner.logger.logged["ratio_epoch0"] == pytest.approx([1], abs=1e-4)  # although the scale has changed
    normaliser = agent.head.normaliser
    assert not torch.allclose(normaliser.mean, made_up)
    torch.testing.assert_close(normaliser.mean, read.states[read.last].mean(0), atol=1e-5, rtol=1e-5)
    fixed = normaliser.mean.clone()
    learner.train(play(learner.mac, seed=1), 1, 1)
    assert torch.equal(normaliser.mean, fixed)
