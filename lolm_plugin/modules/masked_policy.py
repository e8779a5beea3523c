"""A categorical policy over available actions, as pure functions of its log-probabilities."""

import torch
from torch import Tensor


def masked_log_softmax(logits: Tensor, available: Tensor) -> Tensor:
    """Log-probabilities [..., actions] over the available actions, -inf elsewhere.

    ``available`` is bool [..., actions] with at least one True in each row.
    """
    return logits.masked_fill(~available, -torch.inf).log_softmax(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy [...] in nats of log-probabilities [..., actions]; unavailable actions (-inf) add nothing."""
    return -(log_probs.exp() * _finite(log_probs)).sum(-1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) [...] in nats, p and q over the same available actions (paper, equation 8)."""
    return (log_p.exp() * (_finite(log_p) - _finite(log_q))).sum(-1)


def _finite(log_probs: Tensor) -> Tensor:
    # 0 * -inf is NaN, also in the backward pass, so unavailable actions are made 0 * 0.
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)
