from argparse import Namespace

import pytest
import torch

FILES = {"bundled": "action_selectors.py", "EPyMARL": "src/components/action_selectors.py"}

ARGS = Namespace(
    epsilon_start=1.0, epsilon_finish=0.2, epsilon_anneal_time=100, evaluation_epsilon=0.0, test_greedy=True
)
DRAWS = 500
# The best action, 0, is not available to agent 1.
VALUES = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.1, 0.4]]).expand(DRAWS, 2, 3)
AVAILABLE = torch.tensor([[1, 1, 1], [0, 1, 1]]).expand(DRAWS, 2, 3)
ROUGHLY = 0.12


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shares(actions):
    """How often each action was taken: ``[agents, actions]``."""
    assert actions.shape == (DRAWS, 2)
    assert actions.dtype == torch.long
    return torch.nn.functional.one_hot(actions, 3).float().mean(0)


@pytest.mark.parametrize("test_mode", [False, True])
def test_soft_policies_draw_from_the_policy_in_tests_too(host, test_mode):
    selector = host.registries["action_selector"]["soft_policies"](ARGS)
    drawn = shares(selector.select_action(VALUES, AVAILABLE, t_env=0, test_mode=test_mode))
    assert torch.allclose(drawn, VALUES[0], atol=ROUGHLY)


def test_multinomial_draws_what_is_available_and_is_greedy_in_tests(host):
    selector = host.registries["action_selector"]["multinomial"](ARGS)
    drawn = shares(selector.select_action(VALUES, AVAILABLE, t_env=50))
    assert torch.allclose(drawn, torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.2, 0.8]]), atol=ROUGHLY)
    assert selector.epsilon == pytest.approx(0.6)
    tested = shares(selector.select_action(VALUES, AVAILABLE, t_env=50, test_mode=True))
    assert tested.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_multinomial_draws_in_tests_if_told_so(host):
    selector = host.registries["action_selector"]["multinomial"](Namespace(**vars(ARGS) | {"test_greedy": False}))
    tested = shares(selector.select_action(VALUES, AVAILABLE, t_env=0, test_mode=True))
    assert torch.allclose(tested[0], VALUES[0, 0], atol=ROUGHLY)


def test_epsilon_greedy_explores_less_and_less(host):
    selector = host.registries["action_selector"]["epsilon_greedy"](ARGS)
    assert selector.epsilon == 1
    drawn = shares(selector.select_action(VALUES, AVAILABLE, t_env=0))
    assert torch.allclose(drawn, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]]), atol=ROUGHLY)
    drawn = shares(selector.select_action(VALUES, AVAILABLE, t_env=1000))
    assert selector.epsilon == pytest.approx(0.2)
    assert torch.allclose(drawn, torch.tensor([[0.87, 0.07, 0.07], [0, 0.1, 0.9]]), atol=ROUGHLY)
    drawn = shares(selector.select_action(VALUES, AVAILABLE, t_env=1000, test_mode=True))
    assert drawn.tolist() == [[1, 0, 0], [0, 0, 1]]
