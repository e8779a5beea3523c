"""The ratio's limit is the noise of low precision, measured; a wrong policy is refused in every precision."""

import logging

import pytest
import torch

from lolm_plugin.errors import NonFiniteError
from lolm_plugin.learners.ratio_check import RatioCheck, RatioDeviations


@pytest.fixture
def coarse(new_learner, tiny_args, monkeypatch):
    """A learner in bfloat16, in which packs of other sizes give other states, as on a GPU but farther."""
    learner = new_learner(tiny_args({"llm.dtype": "bfloat16", "minibatches": 2, "epochs": 1}))
    encoder, learner.error = learner.mac.agent.backbone.encoder, 0.0
    encode = encoder.encode

    def rounded(batch, pack, reference):
        states = encode(batch, pack, reference)
        tokens = torch.tensor(float(sum(len(batch.ids[prompt]) for group in pack for prompt in group)))
        return states * (1 + learner.error * torch.cos(tokens * torch.arange(1, states.shape[1] + 1)))

    monkeypatch.setattr(encoder, "encode", rounded)
    return learner


def test_noise_of_packing_ends_no_run_but_another_policy_does(coarse, play, caplog):
    caplog.set_level(logging.INFO, logger="lolm")
    coarse.train(play(coarse.mac), 0, 0)
    assert coarse.ratio_check.noise.largest < 1e-3
    batch = play(coarse.mac, seed=1)
    batch["behaviour_log_probs"].add_(0.1)  # a constant of 0.5 would accept it
    with pytest.raises(NonFiniteError, match=r"ratio_epoch0 is 0\.90\d* at environment step 1 .*llm.dtype=float32"):
        coarse.train(batch, 1, 1)
    assert "PPO clips" not in caplog.text

    coarse.error = 30.0
    coarse.train(play(coarse.mac, seed=2), 2, 2)
    logged = {name: values[-1] for name, values in coarse.logger.logged.items()}
    assert abs(logged["ratio_epoch0"] - 1) > 0.64
    assert 0.1 < logged["ratio_deviation_mean"] < logged["ratio_deviation_p99"] <= abs(logged["ratio_epoch0"] - 1)
    assert coarse.ratio_check.noise.largest == pytest.approx(abs(logged["ratio_epoch0"] - 1), rel=0.1)
    assert "PPO clips at 0.2: updates become noisy. Set llm.dtype=float32" in caplog.text

    batch = play(coarse.mac, seed=3)
    batch["behaviour_log_probs"].sub_(1.0)
    with pytest.raises(NonFiniteError, match=r"ratio_epoch0 is .* but must be 1 within"):
        coarse.train(batch, 3, 3)


def test_exact_policies_are_evaluated_once_and_warn_early(caplog):
    check, old = RatioCheck(clip=0.2), torch.zeros(200)
    new = torch.zeros(200)
    new[7] = 0.004
    found = check.check(new, old, 0.01, None, 5, None)
    assert check.noise is None
    assert found == pytest.approx(
        {"ratio_epoch0": 1.004008, "ratio_deviation_p99": 0, "ratio_deviation_mean": 2.004e-5}, abs=1e-6
    )
    check.check(new, old, 0.01, None, 6, None)  # no second warning before it doubles
    assert [record.message for record in caplog.records] == [
        "ratio_epoch0 differs from 1 by 0.004 at environment step 5; 0.01 ends the run. Either logits are too large "
        "for float32 or another policy played: lower lr or head_lr; if that does not help, please report a bug."
    ]
    new[7] = 0.02
    with pytest.raises(NonFiniteError, match=r"1\.02 at environment step 7 but must be 1 within 0.01:"):
        check.check(new, old, 0.01, None, 7, None)


def test_a_policy_that_is_wrong_on_average_is_refused_although_single_decisions_are_noisier():
    check = RatioCheck(clip=0.2)
    old, again, new = torch.zeros(100), torch.zeros(100), torch.full((100,), 0.1)
    again[0] = 0.3
    with pytest.raises(NonFiniteError, match=r"the mean of ratio_epoch0 is 1\.1"):
        check.check(new, old, 0.01, lambda: new + again, 0, None)
    assert RatioDeviations.of(torch.zeros(0), torch.zeros(0)) == RatioDeviations(0.0, 0.0, 0.0)
