"""The speed of a small network on SMAX: that it is measured of the real parts, not how fast they are."""

import pytest
import torch

from benchmarks.env_speed import measure


def test_shares_are_of_one_rollout_and_threads_are_put_back():
    torch.set_num_threads(1)
    found = measure(envs=2, map_name="3m", seconds=0.3, threads=(1, 2))
    assert torch.get_num_threads() == 1
    assert found["envs"] == 2
    parts = [found[name] for name in ("env", "network", "controller", "runner")]
    assert all(0 < part < 1 for part in parts)
    assert sum(parts) == pytest.approx(1)
    assert found["outside"] == pytest.approx(found["controller"] + found["runner"])
    training = [found[f"training_steps_per_second_{count}_threads"] for count in (1, 2)]
    assert found["training_steps_per_second"] == max(training) == training[found["threads"] - 1]
    assert min(*training, found["rollout_steps_per_second"], found["outside_of_training"]) > 0
