"""Tests of DT2GS: its noise, memory, gradients and losses, and the effect of a subtask."""

import numpy as np
import pytest
import torch
from torch import nn

from lolm_plugin.modules.trunks.dt2gs import consistency_kl, product_of_gaussians
from lolm_plugin.observations.entity_features import EntityFeatures
from tests.modules.networks import (
    ORDINARY,
    network_args,
    new_agent,
    observations_of,
    random_entities,
    silent_parameters,
    zeros,
)

AGENTS = torch.arange(3)
LATENT, SUBTASKS = 8, 4


def new_trunk(**changes):
    return new_agent("dt2gs", changes={**ORDINARY, **{f"dt2gs.{key}": value for key, value in changes.items()}}).trunk


def tokens_of(trunk, *shape):
    return random_entities(trunk.embed.in_features, 2, 3, *shape)


def draw(trunk, *shape, seed=1):
    return trunk.noise(shape, np.random.default_rng(seed))


def record_gru_inputs(trunk):
    """Record the GRU's inputs at each step from now on."""
    gru_inputs = []
    trunk.gru.register_forward_pre_hook(lambda module, inputs: gru_inputs.append(inputs))
    return gru_inputs


def test_noise_is_normal_then_gumbel_and_depends_only_on_the_seed():
    trunk = new_trunk()
    noise = draw(trunk, 4000, 3)
    assert noise.shape == (4000, 3, LATENT + SUBTASKS)
    assert torch.equal(noise, draw(trunk, 4000, 3))
    assert not torch.equal(noise, draw(trunk, 4000, 3, seed=2))
    normal, gumbel = noise.split([LATENT, SUBTASKS], dim=-1)
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=0.02)
    assert (gumbel.mean().item(), gumbel.std().item()) == pytest.approx((0.5772, 1.2825), abs=0.03)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_gru_reads_the_product_of_all_units_and_the_previous_subtask(noisy):
    trunk = new_trunk()
    entities, noise = tokens_of(trunk, 3, 2, 3), draw(trunk, 3, 2, 3) if noisy else None
    entities.present[:, :, :, 4] = False  # as published, absent units have a Gaussian, too
    gru_inputs = record_gru_inputs(trunk)
    features = trunk.unroll(entities, torch.zeros(2, 3, trunk.memory_width), noise)
    mean, log_variance = trunk.encoder(entities.features).chunk(2, dim=-1)
    latent, variance = product_of_gaussians(mean, log_variance.exp(), dim=-2)
    if noisy:
        latent = latent + variance.sqrt() * noise[..., :LATENT]
    before = torch.zeros(6, SUBTASKS)
    for t, (read, state) in enumerate(gru_inputs):
        assert torch.allclose(read[:, :LATENT], latent[t].flatten(0, 1), atol=1e-5)
        assert torch.equal(read[:, LATENT:], before)
        assert torch.allclose(state, features.memory[t - 1].flatten(0, 1)[:, :LATENT] if t else torch.zeros(6, LATENT))
        before = features.subtask[t].flatten(0, 1)
        assert torch.equal(features.memory[t].flatten(0, 1)[:, LATENT:], before)
        logits = trunk.choice(features.memory[t, ..., :LATENT])
        logits = logits + noise[t, ..., LATENT:] if noisy else logits
        assert torch.equal(features.subtask[t].argmax(-1), logits.argmax(-1))
    assert features.subtask.sum(-1).eq(1).all()
    assert features.subtask.unique().tolist() == [0, 1]


def test_the_previous_subtask_has_no_gradient():
    trunk = new_trunk()
    gru_inputs = record_gru_inputs(trunk)
    trunk.unroll(tokens_of(trunk, 2, 1, 3), torch.zeros(1, 3, trunk.memory_width), draw(trunk, 2, 1, 3))
    read, state = gru_inputs[1]
    assert torch.autograd.grad(read.sum(), trunk.choice.weight, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(state.sum(), trunk.gru.weight_ih)[0].any()


@pytest.mark.parametrize("coef", [1.0, 0.5, 0.0])
def test_reconstruction_by_hand(coef):
    trunk = new_trunk(reconstruction_coef=coef)
    last = trunk.decoder[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 0.5)
    width = last.out_features
    units = torch.zeros(2, 3, 6, width)
    units[1, :, :3] = 0.5  # half of the units are reconstructed exactly
    entity_features = EntityFeatures(units, torch.zeros(2, 3, 6, dtype=torch.bool), torch.arange(3, 6).expand(2, 3, 3))
    losses = trunk(entity_features, torch.zeros(2, 3, trunk.memory_width), draw(trunk, 2, 3)).losses
    if coef:
        assert losses["reconstruction"].tolist() == [[coef * width / 4] * 3, [coef * width / 8] * 3]
    else:
        assert losses == {}


def test_units_are_reconstructed_from_draws_of_their_own_gaussians():
    trunk, entities = new_trunk(), tokens_of(new_trunk(), 2, 3)
    noise = draw(trunk, 2, 3)
    mean, log_variance = trunk.encoder(entities.features).chunk(2, dim=-1)
    drawn = mean + log_variance.exp().sqrt() * noise[..., None, :LATENT]
    for given, latent in ((noise, drawn), (None, mean)):
        error = (trunk.decoder(latent) - entities.features).square().sum(-1).mean(-1)
        losses = trunk(entities, torch.zeros(2, 3, trunk.memory_width), given).losses
        assert torch.allclose(losses["reconstruction"], error, rtol=1e-4)


def test_the_policy_has_gradients_in_everything_but_the_decoder(random_views):
    agent, obs = new_agent("dt2gs"), observations_of("3m", random_views, (3, 4))
    output = agent.unroll(obs, zeros(agent, 4, 3), AGENTS, draw(agent, 3, 4, 3))
    output.logits.square().mean().backward(retain_graph=True)
    assert silent_parameters(agent.trunk.encoder) == silent_parameters(agent.trunk.gru) == []
    assert {name.split(".")[1] for name in silent_parameters(agent)} == {"decoder"}
    agent.zero_grad()
    output.losses["reconstruction"].mean().backward()
    with_gradient = {name.split(".")[1] for name, parameter in agent.named_parameters() if parameter.grad is not None}
    assert with_gradient == {"encoder", "decoder"}


def target_choices(agent, obs):
    """Compute, for each subtask, the softmax over targets [K, steps, agents, targets] and the base logits."""
    logits = []
    for k in range(SUBTASKS):
        with torch.no_grad():
            agent.trunk.choice.bias.copy_(100.0 * torch.eye(SUBTASKS)[k])
        output = agent.evaluate(obs, zeros(agent, *obs.shape[:2]), AGENTS)
        assert output.subtask[..., k].all()
        logits.append(output.logits)
    logits = torch.stack(logits)
    return logits[..., 6:].softmax(-1), logits[..., :6]


@pytest.mark.parametrize("fuse_relu", [False, True])
def test_a_subtask_changes_the_target_only_with_a_nonlinearity(fuse_relu, random_views):
    agent = new_agent("dt2gs", changes={**ORDINARY, "dt2gs.fuse_relu": fuse_relu})
    targets, base = target_choices(agent, observations_of("3m", random_views, (6,), unseen=0.0))
    for k in range(1, SUBTASKS):
        assert torch.allclose(targets[k], targets[0], atol=1e-5) != fuse_relu
        assert not torch.allclose(base[k], base[0], atol=1e-2)


def test_features_are_one_linear_layer_of_unit_and_subtask():
    trunk, entities = new_trunk(fuse_relu=False), tokens_of(new_trunk(), 2, 3)
    trunk.computes_all_units = True
    features = trunk(entities, torch.zeros(2, 3, trunk.memory_width))
    units = trunk.embed(entities.features)
    meaning = trunk.semantics(features.subtask).unsqueeze(-2)
    encoded, attention = trunk.block(units, units)
    queries = torch.cat([units, meaning], dim=-2)
    subtask = trunk.block(queries, units)[0][..., 6:, :]
    rows = trunk.fuse(torch.cat([encoded, subtask.expand_as(encoded)], dim=-1))
    assert torch.allclose(features.units, rows, atol=1e-4)
    assert torch.allclose(features.attention, attention, atol=1e-5)
    assert not torch.allclose(encoded, trunk.block(queries, queries)[0][..., :6, :], atol=1e-3)


def test_subtask_kl_is_over_the_living_agents_of_a_step():
    trunk, coef = new_trunk(subtask_kl_coef=0.5), 0.5
    entities = tokens_of(trunk, 4, 2, 3)
    entities.present[0, :, 1:, 0] = False  # one living agent
    entities.present[1, :, 2, 0] = False
    features = trunk.unroll(entities, torch.zeros(2, 3, trunk.memory_width), draw(trunk, 4, 2, 3))
    mean, log_variance = trunk.encoder(entities.features).chunk(2, dim=-1)
    group = product_of_gaussians(mean, log_variance.exp(), dim=-2)
    loss = features.losses["subtask_kl"]
    assert loss.shape == (4, 2, 3)
    assert not loss[0].any()
    assert loss[1:].any()
    for t in range(4):
        expected = consistency_kl(*(x[t] for x in group), features.subtask[t], entities.present[t, ..., 0])
        assert torch.allclose(loss[t], coef * expected.unsqueeze(-1).expand(2, 3), rtol=1e-4)


def test_widths_follow_the_configuration():
    args = network_args("dt2gs", changes={"dt2gs.subtasks": 6, "dt2gs.latent": 5})
    agent = new_agent("dt2gs", changes={"dt2gs.subtasks": 6, "dt2gs.latent": 5})
    assert agent.noise_width == agent.hidden_width == args.dt2gs["subtasks"] + args.dt2gs["latent"]
