"""One update on many maps: the gradients are those of the episodes of all maps together."""

from types import SimpleNamespace

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.controllers.many_maps_controller import ManyMapsMAC
from lolm_plugin.learners.mappo import MAPPOLearner
from lolm_plugin.map_batches import MapBatches
from lolm_plugin.modules.critics import build_critic
from tests.conftest import Log, _scheme

SIZES = ((2, 2), (3, 4))  # agents and enemies of two maps
LOSSES = ("policy_loss", "value_loss", "kl_loss", "entropy")
LENGTHS = ((4, 2, 3), (2, 4))
ONE_STEP = {
    **{
        "epochs": 1,
        "critic_minibatches": 1,
        "normalise_advantages": False,
        "normalise_values": False,
        "advantage_floor": 0.0,
    },
    **{"grad_norm_clip": 1000, "lr": 0.0, "head_lr": 0.0, "critic_lr": 0.0},
}
ALGORITHMS = {
    "lolm_mappo_tiny": {"head.features": "raw"},  # other features depend on the battles of the first update
    "updet_mappo": {"critic_type": "updet_critic"},
    "dt2gs_mappo": {"critic_type": "transformer_critic"},  # DT2GS's critic draws other noise for a larger batch
}


@pytest.fixture
def joined(tiny_args, play):
    """Return (learner, batch) of two maps. ``changes`` are dotted keys."""

    def build(algorithm, changes):
        args = [tiny_args(changes, *size, algorithm=algorithm) for size in SIZES]
        schemes = [_scheme(each) for each in args]
        policy = registry.load(registry.ENTRIES["mac"][args[0].mac])(schemes[0], {"agents": 2}, args[0])
        macs = [policy, policy.for_map(schemes[1], {"agents": 3}, args[1])]
        largest = SimpleNamespace(**{**vars(args[0]), "n_agents": 3, "n_actions": args[1].n_actions})
        learner = MAPPOLearner(ManyMapsMAC(macs, largest), schemes[0], Log(), args[0])
        learner.join_maps([build_critic(schemes[1], args[1])], largest)
        parts = [play(mac, lengths) for mac, lengths in zip(macs, LENGTHS, strict=True)]
        return learner, MapBatches(["a", "b"], parts, [0, 1])

    return build


def gradients(learner):
    parameters = [*learner.mac.parameters(), *learner.critic.parameters()]
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_are_those_of_each_map_weighted_by_its_decisions(algorithm, joined, new_learner, tiny_args):
    changes = ONE_STEP | ALGORITHMS[algorithm]
    learner, batch = joined(algorithm, changes)
    learner.train(batch, 0, 0)
    assert learner.logger.logged["ratio_epoch0"] == pytest.approx([1], abs=1e-4)
    apart, decisions, steps = [], [], []
    for part, size in zip(batch.parts, SIZES, strict=True):
        alone = new_learner(tiny_args(changes, *size, algorithm=algorithm))
        valid = part["filled"][:, :-1] * part["filled"][:, 1:]
        decisions.append(len(alone.mac.decisions(part, valid.squeeze(-1) > 0)))
        steps.append(int(valid.sum()) * size[0])
        alone.train(part, 0, 0)
        apart.append(gradients(alone))
    n_policy = len(learner.mac.parameters())
    for i, (together, *each) in enumerate(zip(gradients(learner), *apart, strict=True)):
        weights = torch.tensor(decisions if i < n_policy else steps).double()
        expected = sum(w * one.double() for w, one in zip(weights / weights.sum(), each, strict=True))
        torch.testing.assert_close(together.double(), expected, rtol=1e-4, atol=1e-7)
    assert any(each.any() for each in gradients(learner)[:n_policy])


def test_normalisation_is_over_all_maps(joined):
    learner, batch = joined("lolm_mappo_tiny", {"head.features": "normalised", "advantage_floor": 0.0, "epochs": 1})
    update = learner._prepare(batch, 0)
    assert len(update.advantages) == len(update.decisions) == sum(map(len, update.decisions.parts))
    assert update.advantages.mean().item() == pytest.approx(0, abs=1e-5)
    assert update.advantages.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert update.counts.sum() == 2 * sum(LENGTHS[0]) + 3 * sum(LENGTHS[1])  # agents that a map lacks do not count
    # The statistics are those of both maps' decisions.
    states = [mac._frozen_states(part) for mac, part in zip(learner.mac.macs, update.decisions.parts, strict=True)]
    mean = torch.cat([of_map.last_states for of_map in states]).mean(0)
    torch.testing.assert_close(learner.mac.agent.head.normaliser.mean, mean)
    learner.train(batch, 0, 0)
    mean_return = update.returns[update.counts > 0].mean().item()
    assert learner.value_normaliser.denormalise(torch.zeros(())).item() == pytest.approx(mean_return, rel=1e-3)


def test_results_do_not_depend_on_the_microbatch(joined):
    logged = []
    for changes in ({}, {"microbatch": 1, "llm.token_budget": 64}):
        learner, batch = joined("lolm_mappo_tiny", {"minibatches": 3, "kl.coef_max": 1.0, **changes})
        learner.train(batch, 0, 0)
        logged.append(
            {name: learner.logger.logged[name] for name in ("policy_loss", "value_loss", "kl_loss", "entropy")}
        )
    for name, values in logged[0].items():
        assert values == pytest.approx(logged[1][name], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_an_update_may_have_episodes_of_one_map_only(number, joined, new_learner, tiny_args):
    """As with few battles per update, or with a weight of 0 at the start of a schedule."""
    changes = ONE_STEP | ALGORITHMS["lolm_mappo_tiny"]
    learner, batch = joined("lolm_mappo_tiny", changes)
    part = batch.parts[number]
    learner.train(MapBatches(["a"], [part], [number]), 0, 0)
    alone = new_learner(tiny_args(changes, *SIZES[number]))
    alone.train(part, 0, 0)
    for together, expected in zip(gradients(learner), gradients(alone), strict=True):
        torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-7)
