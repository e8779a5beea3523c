"""A learner's tensors, and differences between two learners."""

import torch


def tensors(learner):
    """Return copies of all tensors of policy, critic and value normaliser, by name."""
    named = dict(learner.mac.agent.state_dict())
    for part in ("critic", "value_normaliser"):
        named |= {f"{part}.{name}": tensor for name, tensor in getattr(learner, part).state_dict().items()}
    return {name: tensor.clone() for name, tensor in named.items()}


def differing(first, second):
    """Return the names whose tensors are not bitwise equal. NaN counts as equal to NaN."""
    return {name for name in first if not torch.equal(first[name].nan_to_num(7e7), second[name].nan_to_num(7e7))}


def farthest(first, second):
    """Return the largest absolute difference of two elements."""
    return max((first[name] - second[name]).abs().max().item() for name in first)


def probabilities(mac, batch, t):
    """Return the policy's probabilities [batch, agents, actions] at timestep ``t`` of every episode, in test mode."""
    everywhere = torch.ones(batch.batch_size, dtype=torch.bool)
    return mac.act(batch, t, 0, everywhere, test_mode=True).log_probs.exp()
