"""Tests of the Transformer critic: one value for any number and order of units."""

from types import SimpleNamespace

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.critics import TransformerCritic
from lolm_plugin.observations.layout import BattleState
from lolm_plugin.observations.units import index

UNIT = 10  # health, cooldown, x, y and six type bits
ALLIES, ENEMIES = 3, 4


def new_critic(allies=ALLIES, enemies=ENEMIES, seed=1, **sizes):
    """Build a critic of a SMAX battle. ``sizes`` replaces fields of its scheme."""
    args = SimpleNamespace(
        env="smax",
        env_args={"map_name": f"{allies}m_vs_{enemies}m"},
        n_agents=allies,
        n_actions=6 + enemies,
        seed=seed,
        critic={"width": 16, "layers": 2, "heads": 4},
        layout={},
    )
    obs = 4 + 12 * enemies + 12 * (allies - 1) + 10
    scheme = {"obs": {"vshape": obs}, "state": {"vshape": UNIT * (allies + enemies)}}
    return TransformerCritic({**scheme, **sizes}, args)


def random_states(*shape, units=ALLIES + ENEMIES):
    """Draw states in which all units are alive: [*shape, units, 10]."""
    torch.manual_seed(3)
    kinds = torch.nn.functional.one_hot(torch.randint(6, (*shape, units)), 6)
    return torch.cat([torch.rand(*shape, units, 4) - 0.3, kinds], dim=-1)


@pytest.fixture
def critic():
    return new_critic()


def value(critic, units):
    with torch.no_grad():
        return critic.values(units.flatten(-2))


def test_a_batch_gets_one_value_per_step_repeated_over_agents(critic):
    batch = {"state": random_states(2, 5).flatten(-2)}
    values = critic(batch)
    assert values.shape == (2, 5, ALLIES, 1)
    assert torch.equal(values, values[:, :, :1].expand(-1, -1, ALLIES, -1))
    assert values[:, :, 0].unique().numel() == 10


def test_the_same_weights_work_for_any_team_sizes(critic):
    other = new_critic(allies=7, enemies=9)
    other.load_state_dict(critic.state_dict())
    assert value(other, random_states(4, units=16)).isfinite().all()
    small, large = random_states(5), torch.zeros(5, 16, UNIT)
    large[:, :ALLIES], large[:, 7 : 7 + ENEMIES] = small[:, :ALLIES], small[:, ALLIES:]
    assert torch.allclose(value(critic, small), value(other, large), atol=1e-5)


def test_the_order_within_a_side_has_no_effect(critic):
    units = random_states(6)
    order = [2, 0, 1, 5, 6, 4, 3]
    assert torch.allclose(value(critic, units), value(critic, units[:, order]), atol=1e-6)


def test_the_side_of_a_unit_matters(critic):
    units = random_states(6)
    assert (value(critic, units) - value(critic, units[:, [3, 1, 2, 0, 4, 5, 6]])).abs().min() > 1e-4


@pytest.mark.parametrize("field", range(4))
def test_every_field_matters(critic, field):
    units, changed = random_states(6), random_states(6)
    changed[:, 1, field] += 0.5
    assert (value(critic, units) - value(critic, changed)).abs().min() > 1e-5


def test_the_type_of_a_unit_matters(critic):
    units, changed = random_states(6), random_states(6)
    changed[:, 1, 4:] = units[:, 1, 4:].roll(1, -1)
    assert (value(critic, units) - value(critic, changed)).abs().min() > 1e-5


def test_only_living_units_are_averaged(critic):
    units = random_states(6)
    units[:, [1, 4]] = 0
    survivors = new_critic(allies=2, enemies=3)
    survivors.load_state_dict(critic.state_dict())
    assert torch.allclose(value(critic, units), value(survivors, units[:, [0, 2, 3, 5, 6]]), atol=1e-5)


def test_values_of_states_without_living_units_are_finite_and_do_not_affect_others(critic):
    units = random_states(6)
    expected = value(critic, units)
    units[[1, 4]] = 0
    units = units.requires_grad_()
    values = critic.values(units.flatten(-2))
    assert torch.allclose(values[[0, 2, 3, 5]], expected[[0, 2, 3, 5]], atol=1e-6)
    assert values[1] == values[4] == critic.value.bias
    values.sum().backward()
    assert units.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in critic.parameters())


def test_states_without_living_units_are_not_encoded(critic):
    masks = []
    critic.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["src_key_padding_mask"]), with_kwargs=True
    )
    units = random_states(3)
    units[1], units[2, 0] = 0, 0
    value(critic, units)
    assert masks[0].sum(1).tolist() == [0, 1]  # no attention over no keys, for which some kernels return NaN
    no_units = torch.zeros_like(units.flatten(-2))
    assert critic.values(no_units).tolist() == [critic.value.bias.item()] * 3


def test_entities_by_hand():
    critic = new_critic(allies=1, enemies=1)
    state = torch.tensor([[0.5, 0.25, -0.5, 0.125, 0, 0, 1, 0, 0, 0, *[0] * 10]])
    tokens, living = critic.entities(state)
    ally = torch.zeros(BattleState.WIDTH)
    ally[:6] = torch.tensor([1, 0.5, 0, 0.25, -0.5, 0.125])  # side, health, shield, cooldown, x, y
    ally[6 + index("stalker")] = 1
    assert living.tolist() == [[True, False]]
    assert torch.equal(tokens[0, 0], ally)
    assert not tokens[0, 1].any()


def test_weights_depend_only_on_the_seed_and_the_global_generator_is_unchanged():
    torch.manual_seed(1)
    first = new_critic(seed=5).state_dict()
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == drawn
    second, other = new_critic(seed=5).state_dict(), new_critic(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"The state of env=smax map_name=3m_vs_4m has size 71"):
        new_critic(state={"vshape": 71})


def test_a_healers_energy_is_in_the_cooldown_field():
    args = SimpleNamespace(
        env="sc2",
        env_args={"map_name": "MMM2", "state_last_action": False},
        n_agents=10,
        n_actions=18,
        seed=1,
        critic={"width": 16, "layers": 1, "heads": 4},
        layout={},
    )
    critic = TransformerCritic({"obs": {"vshape": 176}, "state": {"vshape": 142}}, args)
    state = torch.zeros(1, 142)
    state[0, 0:7] = torch.tensor([1, 0.4, 0.1, -0.1, 1, 0, 0])  # a marauder, cooling down
    state[0, 63:70] = torch.tensor([0.5, 0.25, 0.1, -0.1, 0, 0, 1])  # a medivac with a quarter of its energy
    tokens, living = critic.entities(state)
    assert living[0].nonzero().flatten().tolist() == [0, 9]
    field = 1 + BattleState.FEATURES.index("cooldown")
    assert tokens[0, [0, 9], field].tolist() == pytest.approx([0.4, 0.25])
