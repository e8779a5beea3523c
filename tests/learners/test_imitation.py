"""Losses of imitation, compared with numbers computed by hand."""

import math

import pytest
import torch

from lolm_plugin.learners import imitation
from lolm_plugin.learners.imitation import agreement, discounted_returns, policy_loss

NONE = -math.inf
TEACHER = torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.0, 0.25]]).log()
STUDENT = torch.tensor([[0.25, 0.75, 0.0], [0.25, 0.0, 0.75]]).log()
ACTIONS = torch.tensor([1, 0])


def test_the_kl_is_from_teacher_to_student():
    by_hand = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.75 * math.log(3) + 0.25 * math.log(1 / 3)]
    torch.testing.assert_close(policy_loss(STUDENT, TEACHER, ACTIONS, "kl"), torch.tensor(by_hand))


def test_the_cross_entropy_is_of_the_teachers_action():
    by_hand = [-math.log(0.75), -math.log(0.25)]
    torch.testing.assert_close(policy_loss(STUDENT, TEACHER, ACTIONS, "ce"), torch.tensor(by_hand))


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_unavailable_actions_have_finite_gradients(loss):
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    available = torch.tensor([[True, True, False]])
    log_student = logits.masked_fill(~available, NONE).log_softmax(-1)
    policy_loss(log_student, TEACHER[:1], ACTIONS[:1], loss).sum().backward()
    # For either loss, the gradient with respect to the logits is the student's probability minus the target's.
    target = {"kl": torch.tensor([[0.5, 0.5, 0.0]]), "ce": torch.tensor([[0.0, 1.0, 0.0]])}[loss]
    torch.testing.assert_close(logits.grad, log_student.detach().exp() - target)


def test_agreement_means_the_same_preferred_action():
    torch.testing.assert_close(agreement(STUDENT, STUDENT.flip(0)), torch.zeros(2))
    assert agreement(STUDENT, TEACHER).tolist() == [0.0, 0.0]  # of equal actions the first counts as preferred
    assert agreement(STUDENT, STUDENT).tolist() == [1.0, 1.0]


def test_returns_are_discounted_and_end_with_the_episode():
    rewards = torch.tensor([[[1.0], [2.0], [4.0]], [[1.0], [8.0], [99.0]]])
    valid = torch.tensor([[[1.0], [1.0], [1.0]], [[1.0], [1.0], [0.0]]])
    by_hand = torch.tensor([[[1 + 0.5 * (2 + 0.5 * 4)], [2 + 0.5 * 4], [4]], [[1 + 0.5 * 8], [8], [0]]])
    torch.testing.assert_close(discounted_returns(rewards, valid, gamma=0.5), by_hand)


def test_progress_is_shown_and_every_battle_is_read_once(new_learner, tiny_args, play, monkeypatch):
    mac = new_learner(tiny_args({"lora.layers": 1})).mac
    batch = play(mac)
    monkeypatch.setattr(imitation, "LABELLED_AT_ONCE", 1)
    shown, read = [], []
    precompute = mac.agent.precompute
    monkeypatch.setattr(
        mac.agent, "precompute", lambda prompts, *rest: read.append(len(prompts)) or precompute(prompts, *rest)
    )
    answers = torch.zeros(batch["avail_actions"].shape), batch["actions"].squeeze(-1)
    data = imitation.build_imitation_data(
        mac, batch, *answers, 0.99, lambda starts: shown.extend(starts) or iter(starts)
    )
    assert shown == list(range(batch.batch_size))
    assert len(data) == len(mac.decisions(batch, (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0))
    assert len(read) == batch.batch_size + 2  # once per battle, then for the whole batch here and in the line above
    assert sum(read[: batch.batch_size]) >= read[-1] > 0


def test_feature_statistics_come_from_the_teachers_battles(new_learner, tiny_args, play):
    mac = new_learner(tiny_args({"head.features": "normalised"})).mac
    batch = play(mac)
    made_up = mac.agent.head.normaliser.mean.clone()
    answers = torch.zeros(batch["avail_actions"].shape), batch["actions"].squeeze(-1)
    imitation.build_imitation_data(mac, batch, *answers, 0.99)
    assert not torch.allclose(mac.agent.head.normaliser.mean, made_up)
    assert not mac.agent.head.needs_collected_statistics
