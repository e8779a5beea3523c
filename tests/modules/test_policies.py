"""Tests of every registered small policy: shapes, memory, gradients, and weights that depend only on the seed."""

import pytest
import torch

from lolm_plugin.modules.agents.gru import GRUAgent
from tests.modules.networks import (
    FORMS,
    drawn,
    layouts_of,
    network_args,
    new_agent,
    observations_of,
    silent_parameters,
    zeros,
)

SIZES = {"3m": (3, 3), "8m_vs_9m": (8, 9), "2m_vs_1z": (2, 1), "corridor": (6, 24)}
MAP = "8m_vs_9m"
AGENTS = torch.arange(8)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def check_same(first, second):
    """Check that two outputs agree in all fields, up to rounding."""
    for name, one, other in zip(first._fields, first, second, strict=True):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            pairs = [(one[key], other[key]) for key in one]
        else:
            pairs = [] if one is None else [(one, other)]
            assert (one is None) == (other is None), name
        for a, b in pairs:
            assert torch.allclose(a, b, atol=1e-5), (name, (a - b).abs().max())


@pytest.mark.parametrize("map_name", SIZES)
def test_shapes(form, map_name, random_views):
    n_agents, n_enemies = SIZES[map_name]
    agent = new_agent(form, map_name)
    obs = observations_of(map_name, random_views, (4,))
    output = agent.evaluate(obs, zeros(agent, 4, n_agents), torch.arange(n_agents), drawn(agent, 4, n_agents))
    assert output.logits.shape == (4, n_agents, 6 + n_enemies)
    assert output.hidden.shape == (4, n_agents, agent.hidden_width)
    assert all(value.shape == (4, n_agents) for value in [*output.losses.values(), *output.stats.values()])
    assert all(value.isfinite().all() for value in [output.logits, output.hidden, *output.losses.values()])
    assert output.logits.std() > (1e-4 if form == "gru" else 0.01), "other tests would compare nearly equal logits"
    assert agent.input_size == obs.shape[-1]
    assert drawn(agent, 4, n_agents).shape == (4, n_agents, agent.noise_width)
    if output.attention is not None:
        assert output.attention.shape == (4, n_agents, n_agents + n_enemies)
        shares = [output.stats[f"attention_{who}"] for who in ("own", "allies", "enemies")]
        teams = output.attention.split([1, n_agents - 1, n_enemies], dim=-1)
        for share, team in zip(shares, teams, strict=True):
            assert torch.allclose(share, team.sum(-1))
        assert torch.allclose(sum(shares), torch.ones(4, n_agents), atol=1e-5)


def test_single_steps_and_single_agents_are_computed_alike(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (5,))
    batched = agent.evaluate(obs, zeros(agent, 5, 8), AGENTS)
    alone = agent.evaluate(obs[2], zeros(agent, 8), AGENTS)
    assert torch.allclose(alone.logits, batched.logits[2], atol=1e-5)
    if not agent.hidden_width:
        index = torch.tensor([0, 4, 2]), torch.tensor([7, 0, 3])
        alone = agent.evaluate(obs[index], zeros(agent, 3), index[1])
        assert torch.allclose(alone.logits, batched.logits[index], atol=1e-5)


def test_logits_of_available_actions_do_not_depend_on_the_mask(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (5,))
    available = torch.rand(5, 8, 15, generator=torch.Generator().manual_seed(0)) < 0.5
    every = agent.evaluate(obs, zeros(agent, 5, 8), AGENTS)
    some = agent.evaluate(obs, zeros(agent, 5, 8), AGENTS, available=available)
    assert some.logits.isfinite().all()
    logits = [output.logits.masked_fill(~available, 0.0) for output in (some, every)]
    check_same(*(output._replace(logits=masked) for output, masked in zip((some, every), logits, strict=True)))


@pytest.mark.parametrize("noisy", [False, True])
def test_unroll_equals_evaluate_step_by_step(form, noisy, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (5, 3))
    obs[3:, 1, 2] = 0  # one agent dies
    noise = drawn(agent, 5, 3, 8) if noisy else None
    start = torch.rand(3, 8, agent.hidden_width)
    at_once, hidden = agent.unroll(obs, start, AGENTS, noise), start
    for t in range(5):
        step = agent.evaluate(obs[t], hidden, AGENTS, None if noise is None else noise[t])
        check_same(step, type(step)(*(_at(value, t) for value in at_once)))
        hidden = step.hidden


def _at(value, t):
    if isinstance(value, dict):
        return {name: each[t] for name, each in value.items()}
    return None if value is None else value[t]


def test_only_memory_connects_the_steps(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (3, 2))
    before = agent.unroll(obs, zeros(agent, 2, 8), AGENTS)
    changed = obs.clone()
    changed[0] = observations_of(MAP, random_views, (2,), seed=9)
    after = agent.unroll(changed, zeros(agent, 2, 8), AGENTS)
    assert not torch.allclose(before.logits[0], after.logits[0])
    if agent.hidden_width:
        assert ((before.hidden[2] - after.hidden[2]).abs().amax(-1) > 1e-5).all()
    else:
        assert torch.allclose(before.logits[2], after.logits[2], atol=1e-6)


def test_gradients_reach_every_parameter(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (3, 4))
    output = agent.unroll(obs, zeros(agent, 4, 8), AGENTS, drawn(agent, 3, 4, 8))
    torch.manual_seed(0)
    loss = (output.logits * torch.randn_like(output.logits)).mean() + sum(x.mean() for x in output.losses.values())
    loss.backward()
    assert not silent_parameters(agent)
    assert all(parameter.grad.isfinite().all() for parameter in agent.parameters())


def test_the_policy_is_a_function_of_its_noise(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (3, 4))
    start = zeros(agent, 4, 8)
    with torch.no_grad():
        greedy = [agent.unroll(obs, start, AGENTS) for _ in range(2)]
        assert torch.equal(greedy[0].logits, greedy[1].logits)
        played = [agent.unroll(obs, start, AGENTS, drawn(agent, 3, 4, 8)) for _ in range(2)]
    assert torch.equal(played[0].logits, played[1].logits)  # the learner's ratio is exactly 1 before the first step
    assert torch.equal(played[0].logits, greedy[0].logits) == (agent.noise_width == 0)


@pytest.mark.parametrize("noisy", [False, True])
def test_outputs_of_dead_agents_are_finite_and_do_not_affect_others(form, noisy, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (2, 4))
    noise = drawn(agent, 2, 4, 8) if noisy else None
    before = agent.unroll(obs, zeros(agent, 4, 8), AGENTS, noise)
    dead = torch.zeros(2, 4, 8, dtype=torch.bool)
    dead[:, 0, 3] = dead[1, 2] = True
    obs[dead] = 0
    obs.requires_grad_()
    after = agent.unroll(obs, zeros(agent, 4, 8), AGENTS, noise)
    assert torch.allclose(after.logits[~dead], before.logits[~dead], atol=1e-5)
    (after.logits.sum() + sum(loss.sum() for loss in after.losses.values())).backward()
    tensors = [after.logits, after.hidden, *after.losses.values(), *after.stats.values(), obs.grad]
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert all(parameter.grad.isfinite().all() for parameter in agent.parameters())


def test_weights_depend_only_on_the_seed_and_the_global_generator_is_unchanged(form):
    torch.manual_seed(1)
    first = new_agent(form, seed=5).state_dict()
    expected = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == expected
    second, other = new_agent(form, seed=5).state_dict(), new_agent(form, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_policy_is_near_uniform_at_the_start(form, random_views):
    agent = new_agent(form, MAP, changes={})
    logits = agent.evaluate(observations_of(MAP, random_views, (9,)), zeros(agent, 9, 8), AGENTS).logits
    base = logits[..., :6]
    assert 1e-4 < base.std() < 0.1
    if "inner" not in form:  # its target logits have no head with a small gain: they are products of two embeddings
        assert logits.log_softmax(-1).exp().max() < 1.5 / 15


def test_a_gru_reads_last_action_and_id_if_the_host_adds_them():
    args = network_args("gru", MAP)
    args.obs_last_action = args.obs_agent_id = True
    size = layouts_of(args).observation.size
    agent = GRUAgent(layouts_of(args).observation, args)
    assert agent.input_size == size + 15 + 8
    assert agent.evaluate(torch.rand(16, size + 23), zeros(agent, 16), AGENTS).logits.shape == (16, 15)
