"""NaN and infinity stop a run before an update, and the error names them."""

import math

import pytest
import torch

from lolm_plugin.checks import check_finite, check_ratio
from lolm_plugin.errors import NonFiniteError
from lolm_plugin.tensor_files import save_tensors
from tests.algorithms import NETWORKS
from tests.learners.compare import differing, tensors

ALGORITHMS = ("lolm_mappo_tiny", *NETWORKS)


@pytest.fixture(params=ALGORITHMS)
def learner(request, new_learner, tiny_args):
    return new_learner(tiny_args(algorithm=request.param))


def refused(learner, batch, match):
    """Check that the update raises and changes no tensor."""
    before = tensors(learner)
    with pytest.raises(NonFiniteError, match=match) as error:
        learner.train(batch, 7, 0)
    assert differing(before, tensors(learner)) == set()
    assert error.value.batch is batch


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("obs", (1, 2, 0, 5), "episode 1, step 2, agent 0, number 5"),
        ("state", (2, 1, 3), "episode 2, step 1, number 3"),
        ("reward", (0, 3, 0), "episode 0, step 3, agent 0"),
    ],
)
def test_a_non_finite_number_in_a_batch_is_refused(learner, play, name, place, said, value):
    batch = play(learner.mac)
    batch[name][place] = value
    refused(learner, batch, rf"{name} is {value} at environment step 7 \({said}\)")


@pytest.mark.parametrize(
    ("part", "named"), [("agent", "log_probs or values of the batch"), ("critic", "values of the critic")]
)
def test_a_non_finite_output_of_a_network_is_refused(learner, play, part, named):
    batch = play(learner.mac)
    module = learner.critic if part == "critic" else learner.mac.agent
    with torch.no_grad():
        [parameter for parameter in module.parameters() if parameter.requires_grad][-1].fill_(math.nan)
    refused(learner, batch, rf"{named} is nan at environment step 7")


def test_a_non_finite_gradient_of_the_policy_is_refused(new_learner, tiny_args, play):
    """The loss is finite, but its gradient is not."""
    learner = new_learner(tiny_args(algorithm="updet_mappo"))
    batch = play(learner.mac)
    last = list(learner.mac.agent.parameters())[-1]
    last.register_hook(lambda gradient: gradient * math.nan)
    refused(learner, batch, "gradient norm of the policy is nan")


def test_a_non_finite_gradient_of_the_critic_is_refused(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"epochs": 1}, algorithm="updet_mappo"))
    batch = play(learner.mac)
    list(learner.critic.parameters())[-1].register_hook(lambda gradient: gradient * math.inf)
    critic = {name: tensor for name, tensor in tensors(learner).items() if name.startswith("critic.")}
    with pytest.raises(NonFiniteError, match="gradient norm of the critic is"):
        learner.train(batch, 7, 0)
    assert differing(critic, tensors(learner)) == set()


def test_a_non_finite_observation_is_refused_in_play(learner, play):
    """The check runs before an action is drawn and before a prompt is written."""
    seen = play(learner.mac)
    seen["obs"][1, 0, 0, 4] = math.nan
    learner.mac.init_hidden(3)
    with pytest.raises(NonFiniteError, match=r"obs is nan at environment step 5 \(episode 1, agent 0, number 4\)"):
        learner.mac.select_actions(seen, 0, 5)


def test_non_finite_log_probabilities_are_refused_in_play(new_learner, tiny_args, play):
    learner = new_learner(tiny_args(algorithm="updet_mappo"))
    seen = play(learner.mac)
    with torch.no_grad():
        for parameter in learner.mac.agent.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="log_probs of the policy is nan"):
        learner.mac.select_actions(seen, 0, 5)


def test_observations_of_finished_episodes_are_not_checked(new_learner, tiny_args, play):
    learner = new_learner(tiny_args(algorithm="updet_mappo"))
    seen = play(learner.mac)
    seen["obs"][0, 1] = math.nan
    learner.mac.select_actions(seen, 1, 5, bs=[1, 2])


def test_a_policy_other_than_the_one_that_played_is_refused(new_learner, tiny_args, play):
    learner = new_learner(tiny_args(algorithm="updet_mappo"))
    batch = play(learner.mac)
    with torch.no_grad():
        next(iter(learner.mac.agent.parameters())).add_(0.1)
    refused(learner, batch, r"ratio_epoch0 is .* but must be 1 within 0.01.*llm.dtype=float32")


def test_another_policy_is_refused_with_minibatches_too(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"minibatches": 2}, algorithm="updet_mappo"))
    batch = play(learner.mac)
    batch["behaviour_log_probs"].add_(0.1)
    refused(learner, batch, "ratio_epoch0 is 0.9")


def test_the_ratio_may_differ_if_noise_is_redrawn(new_learner, tiny_args, play):
    learner = new_learner(tiny_args({"dt2gs.noise_mode": "redraw"}, algorithm="dt2gs_mappo"))
    assert learner.mac.ratio_tolerance() == math.inf
    learner.train(play(learner.mac), 0, 0)


@pytest.mark.parametrize(("ratio", "tolerance"), [(1.02, 0.01), (0.98, 0.01), (math.nan, 0.01), (math.nan, math.inf)])
def test_wrong_ratios_are_refused(ratio, tolerance):
    with pytest.raises(NonFiniteError):
        check_ratio(ratio, tolerance, 0, None)


def test_ratios_within_the_tolerance_are_accepted():
    check_ratio(1.005, 0.01, 0, None)
    check_ratio(7.0, math.inf, 0, None)


def test_integers_are_always_finite():
    check_finite("actions", torch.tensor([1, 2]), 0)


def test_the_first_non_finite_number_is_named():
    values = torch.zeros(2, 3)
    values[1, 0] = values[0, 2] = math.nan
    with pytest.raises(NonFiniteError, match=r"\(episode 0, step 2\)"):
        check_finite("reward", values, 0, ("episode", "step"))


def test_a_non_finite_tensor_is_never_saved(tmp_path):
    with pytest.raises(NonFiniteError, match=r"w of critic.safetensors is not finite"):
        save_tensors(tmp_path / "critic.safetensors", {"w": torch.tensor([1.0, math.nan])})
    assert list(tmp_path.iterdir()) == []


def test_a_non_finite_adapter_is_never_saved(new_learner, tiny_args, tmp_path):
    learner = new_learner(tiny_args())
    with torch.no_grad():
        learner.mac.agent.backbone.lora_parameters()[0][0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="the adapter is not finite"):
        learner.save_models(str(tmp_path))
