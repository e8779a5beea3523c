"""Tests of the entity critics and the flat critic: one value per agent, other maps, memory."""

import pytest
import torch

from tests.modules.networks import ENTITY_FORMS, ORDINARY, new_critic, random_batch, silent_parameters

MAP = "8m_vs_9m"


@pytest.fixture(params=[*ENTITY_FORMS, "flat"])
def make(request):
    """Build critics of each kind: ``make(map_name)``."""
    if request.param == "flat":
        return lambda *which, **how: new_critic("gru", *which, critic_type="mlp_critic", **how)
    return lambda *which, **how: new_critic(request.param, *which, **how)


@pytest.fixture
def batch(random_views):
    return random_batch(MAP, random_views, episodes=3, steps=4)


def test_a_value_for_each_agent_and_step(make, batch):
    critic = make(MAP)
    values, losses = critic.evaluate(batch, t_env=0)
    assert values.shape == critic(batch).shape == (3, 4, 8, 1)
    assert values.isfinite().all()
    assert values.std() > 1e-3
    assert values[0, 0].unique().numel() > 4, "agents see the state differently"
    assert all(loss.shape == (3, 4, 8) and loss.isfinite().all() for loss in losses.values())


def test_values_do_not_depend_on_the_other_episodes(make, batch):
    critic, few = make(MAP), torch.tensor([2, 0])
    values, losses = critic.evaluate(batch, t_env=8)
    some, some_losses = critic.evaluate(batch, 8, few)
    assert torch.allclose(some, values[few], atol=1e-5)
    assert losses.keys() == some_losses.keys()
    for name, loss in losses.items():
        assert torch.allclose(some_losses[name], loss[few], atol=1e-5)


def test_gradients_reach_every_parameter(make, batch):
    critic = make(MAP)
    values, losses = critic.evaluate(batch, t_env=0)
    torch.manual_seed(0)
    ((values * torch.randn_like(values)).mean() + sum(loss.mean() for loss in losses.values())).backward()
    assert not silent_parameters(critic)


def test_past_steps_matter_only_with_memory(make, batch):
    critic = make(MAP)
    changed = {name: values.clone() for name, values in batch.items()}
    changed["state"][:, 2] = random_state(changed["state"][:, 2])
    before, after = critic(batch), critic(changed)
    assert torch.allclose(before[:, :2], after[:, :2], atol=1e-6)
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-3)
    remembers = getattr(critic, "trunk", None) is not None and critic.trunk.memory_width > 0
    noise_free_latent = remembers and critic.trunk.noise_width > 0
    if not noise_free_latent:  # DT2GS: the memory has an effect only when another subtask is chosen
        assert torch.allclose(before[:, 3], after[:, 3], atol=1e-6) != remembers


def random_state(like):
    torch.manual_seed(11)
    return torch.rand_like(like)


def test_weights_depend_only_on_the_seed(make):
    first, second, other = (make(MAP, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("form", ENTITY_FORMS)
def test_the_same_weights_work_on_every_map(form, random_views):
    source, target = new_critic(form, "3m"), new_critic(form, "27m_vs_30m", seed=2)
    target.load_state_dict(source.state_dict(), strict=True)
    values = target(random_batch("27m_vs_30m", random_views, 1, 2))
    assert values.shape == (1, 2, 27, 1)
    assert values.isfinite().all()


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("form", ENTITY_FORMS)
def test_the_value_is_computed_from_the_mean_over_units(form, mask, batch):
    critic = new_critic(form, MAP, changes={**ORDINARY, "entity.mask_absent": mask})
    batch["state"][0, 0, : critic.entity_features.state.allies.width] = 0  # agent 0 is dead
    values = critic(batch)
    entities = critic.entity_features(*(batch[name].transpose(0, 1) for name in ("state", "obs", "avail_actions")))
    features = critic.trunk.unroll(entities, torch.zeros(3, 8, critic.trunk.memory_width))
    assert features.averaged.all() != mask
    for t, b, agent in ((0, 1, 2), (3, 2, 7), (1, 0, 5)):
        rows = features.units[t, b, agent][features.averaged[t, b, agent]]
        if len(rows):
            assert torch.allclose(values[b, t, agent], critic.value(rows.mean(0)), atol=1e-4)
    if mask:
        assert values[0, 0, 0] == critic.value.bias, "no unit, no features"
    values.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in critic.parameters() if parameter.grad is not None)


def test_a_critics_noise_depends_on_seed_and_t_env(batch):
    critic = new_critic("dt2gs", MAP)

    def loss(t_env, critic=critic):
        return critic.evaluate(batch, t_env)[1]["reconstruction"]

    assert torch.equal(loss(0), loss(0))
    assert not torch.equal(loss(0), loss(100))
    other = new_critic("dt2gs", MAP, seed=2)
    other.load_state_dict(critic.state_dict())
    assert not torch.equal(loss(0), loss(0, other))


def test_the_flat_critic_distinguishes_agents_with_equal_observations(batch):
    critic = new_critic("gru", MAP, critic_type="mlp_critic")
    batch["obs"][:] = batch["obs"][:, :, :1]
    assert critic(batch)[0, 0].unique().numel() == 8
    batch["obs"][:, :, 3] += 1
    before, after = critic(batch), critic({**batch, "state": batch["state"] + 1})
    assert ((after - before).abs() > 1e-4).all()
