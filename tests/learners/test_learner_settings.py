"""Settings in which published learners differ, with effects computed by hand."""

from types import SimpleNamespace

import pytest
import torch

from lolm_plugin.learners import ppo_core

STILL = {"lr": 0.0, "critic_lr": 0.0, "epochs": 1, "minibatches": 1, "critic_minibatches": 1, "batch_size_run": 3}


@pytest.fixture
def trained(new_learner, tiny_args, play):
    """Return (learner, batch) of ``updet_mappo`` after one update. ``changes`` are dotted keys."""

    def run(changes, **playing):
        learner = new_learner(tiny_args({**STILL, **changes}, algorithm="updet_mappo"))
        batch = play(learner.mac, **playing)
        learner.train(batch, 0, 0)
        return learner, batch

    return run


def mean_return(learner):
    return learner.value_normaliser.denormalise(torch.zeros(())).item()


def test_last_steps_marks_the_last_valid_step_of_each_episode():
    valid = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 0, 0]]).unsqueeze(-1)
    assert ppo_core.last_steps(valid).squeeze(-1).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("bootstrap", [None, True, False])
def test_a_time_limit_is_bootstrapped_unless_the_key_is_false(trained, bootstrap):
    learner, batch = trained({"bootstrap_time_limit": bootstrap}, lengths=(1,))  # the first episode is cut off
    assert batch["terminated"].sum() == 0
    reward = batch["reward"][0, 0].item()
    with torch.no_grad():
        following = learner.critic(batch)[0, 1, 0].item()  # equals the return: the normaliser has no statistics yet
    expected = reward if bootstrap is False else reward + 0.99 * following
    assert mean_return(learner) == pytest.approx(expected, abs=1e-5)
    assert abs(following) > 1e-3


def test_values_are_normalised_only_if_set(trained):
    assert trained({"normalise_values": True})[0].value_normaliser.debias > 0
    assert trained({"normalise_values": False})[0].value_normaliser.debias == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"normalise_advantages": False}, [1.0, 4.0]),
        ({"normalise_advantages": True, "mask_dead": True}, [-1.0, 1.0]),
        # Mean 2 and variance 1.5 of 1, 1, 4, 2, of which the decisions are the first and the third.
        ({"normalise_advantages": True, "mask_dead": False}, [-1 / 1.5**0.5, 2 / 1.5**0.5]),
    ],
)
def test_advantages_are_normalised_over_decisions_or_over_all_agents(new_learner, tiny_args, changes, expected):
    learner = new_learner(tiny_args({**STILL, **changes}, algorithm="updet_mappo"))
    advantages = torch.tensor([[[1.0, 1.0], [4.0, 2.0], [9.0, 9.0]]])
    counts = torch.tensor([[[1.0, 1], [1, 1], [0, 0]]])
    index = (torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    steps = type("Steps", (SimpleNamespace,), {"__len__": lambda self: 2})(index=index)
    assert learner._normalised_advantages(advantages, counts, steps).tolist() == pytest.approx(expected, abs=1e-4)


def test_dead_agents_lower_the_policys_means_if_they_count(trained):
    losses, gradients = [], []
    for mask_dead in (True, False):
        learner, _ = trained({"mask_dead": mask_dead, "normalise_advantages": False})
        losses.append(learner.logger.logged["policy_loss"][0])
        gradients.append(learner.logger.logged["actor_grad_norm"][0])
    # 9 steps of 2 agents; in 6 of them one agent is dead: 12 decisions.
    assert losses[1] == pytest.approx(losses[0] * 12 / 18)
    assert gradients[1] == pytest.approx(gradients[0] * 12 / 18)


def test_values_are_clipped_only_if_set(trained):
    def value_loss(**changes):
        return trained({"critic_lr": 0.0005, "epochs": 4, **changes})[0].logger.logged["value_loss"]

    free = value_loss(clip_values=False, value_clip=1e-6)
    assert free == value_loss(clip_values=True, value_clip=1e9)
    assert free != value_loss(clip_values=True, value_clip=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 3, 10])
def test_the_critic_takes_one_step_per_minibatch_of_episodes(trained, parts):
    learner, _ = trained({"critic_lr": 0.001, "epochs": 2, "critic_minibatches": parts})
    assert learner.critic_optimiser.state_dict()["state"][0]["step"] == 2 * min(parts, 3)
