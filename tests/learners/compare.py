"""What a learner has learned, and how far two of them differ."""

import torch


def tensors(learner):
    """Every tensor of the policy and the critic by name, as a copy."""
    named = {**learner.mac.agent.state_dict(), **{f"critic.{k}": v for k, v in learner.critic.state_dict().items()}}
    return {name: tensor.clone() for name, tensor in named.items()}


def differing(first, second):
    """The names whose tensors are not bitwise equal."""
    return {name for name in first if not torch.equal(first[name], second[name])}


def farthest(first, second):
    """The largest difference of any two numbers."""
    return max((first[name] - second[name]).abs().max().item() for name in first)
