"""What a learner has learned, and how far two of them differ."""

import torch


def tensors(learner):
    """Every tensor of policy, critic and normaliser by name, as a copy."""
    named = dict(learner.mac.agent.state_dict())
    for part in ("critic", "value_normaliser"):
        named |= {f"{part}.{name}": tensor for name, tensor in getattr(learner, part).state_dict().items()}
    return {name: tensor.clone() for name, tensor in named.items()}


def differing(first, second):
    """The names whose tensors are not bitwise equal; what is no number is equal to itself here."""
    return {name for name in first if not torch.equal(first[name].nan_to_num(7e7), second[name].nan_to_num(7e7))}


def farthest(first, second):
    """The largest difference of any two numbers."""
    return max((first[name] - second[name]).abs().max().item() for name in first)


def probabilities(mac, batch, t):
    """The policy's probabilities [batch, agents, actions] at one timestep of every episode, as in a test."""
    everywhere = torch.ones(batch.batch_size, dtype=torch.bool)
    return mac.act(batch, t, 0, everywhere, test_mode=True).log_probs.exp()
