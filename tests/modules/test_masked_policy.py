"""Tests of log-probabilities, entropy and KL over available actions, by hand and with torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from lolm_plugin.modules import heads
from lolm_plugin.modules.heads import entropy, masked_log_softmax


def random_logits(policies=200, actions=9, seed=0):
    """Draw logits and masks with at least one available action each."""
    generator = torch.Generator().manual_seed(seed)
    available = torch.rand(policies, actions, generator=generator) < 0.5
    available[torch.arange(policies), torch.randint(actions, (policies,), generator=generator)] = True
    return 3 * torch.randn(policies, actions, generator=generator), available


def distribution(logits, available):
    return Categorical(logits=logits.masked_fill(~available, -1e9))


def test_log_probabilities_by_hand():
    logits = torch.tensor([math.log(3.0), 50.0, math.log(1.0), -50.0])
    log_probs = masked_log_softmax(logits, torch.tensor([True, False, True, False]))
    assert log_probs.exp().tolist() == pytest.approx([0.75, 0, 0.25, 0])
    assert log_probs[[1, 3]].tolist() == [-math.inf, -math.inf]


def test_a_single_available_action_has_probability_one():
    log_probs = masked_log_softmax(torch.tensor([5.0, -9.0, 2.0]), torch.tensor([False, True, False]))
    assert log_probs[1] == 0
    assert entropy(log_probs) == 0


def test_entropy_of_k_equal_actions_is_log_k():
    available = torch.tensor([[True, True, True, False], [False, True, True, False]])
    log_probs = masked_log_softmax(torch.full((2, 4), 7.0), available)
    assert entropy(log_probs).tolist() == pytest.approx([math.log(3), math.log(2)])


def test_kl_by_hand():
    log_p, log_q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.75, 0.0]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert heads.kl_divergence(log_p, log_q).item() == pytest.approx(expected)
    expected = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert heads.kl_divergence(log_q, log_p).item() == pytest.approx(expected)


def test_all_three_agree_with_torch_distributions():
    logits, available = random_logits()
    others, _ = random_logits(seed=1)
    p, q = distribution(logits, available), distribution(others, available)
    log_p, log_q = masked_log_softmax(logits, available), masked_log_softmax(others, available)
    assert torch.allclose(log_p.exp(), p.probs, atol=1e-6)
    assert torch.allclose(entropy(log_p), p.entropy(), atol=1e-5)
    assert torch.allclose(heads.kl_divergence(log_p, log_q), kl_divergence(p, q), atol=1e-5)


def test_gradients_are_finite_and_do_not_touch_unavailable_actions():
    logits, available = random_logits()
    others, _ = random_logits(seed=1)
    logits.requires_grad_()
    others.requires_grad_()
    log_p, log_q = masked_log_softmax(logits, available), masked_log_softmax(others, available)
    chosen = log_p.gather(-1, available.int().argmax(-1, keepdim=True))
    (chosen.sum() + entropy(log_p).sum() + heads.kl_divergence(log_p, log_q).sum()).backward()
    for tensor in (logits, others):
        assert tensor.grad.isfinite().all()
        assert not tensor.grad[~available].any()
        assert tensor.grad.any()


def test_the_gradient_of_the_kl_agrees_with_torch_distributions():
    logits, available = random_logits()
    others, _ = random_logits(seed=1)
    mine, theirs = (logits.double().requires_grad_() for _ in range(2))
    log_q = masked_log_softmax(others.double(), available)
    heads.kl_divergence(masked_log_softmax(mine, available), log_q).sum().backward()
    kl_divergence(distribution(theirs, available), distribution(others.double(), available)).sum().backward()
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-9)
