"""The matrix products in the lower bound of the time, counted by hand for a model of two layers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from benchmarks.gemm_rate import Floor
from lolm_plugin.llm import tiny

INPUTS, KEYS_AND_VALUES, OUTPUT, MLP = 64 * 64 + 2 * 32 * 64, 2 * 32 * 64, 64 * 64, 3 * 64 * 128  # of tiny-llama
ATTENTION = INPUTS + OUTPUT


@pytest.fixture(scope="module")
def policy():
    model = AutoModel.from_config(tiny.config("tiny-llama"))
    return get_peft_model(model, LoraConfig(target_modules="all-linear"))


@pytest.mark.parametrize(("read_positions", "last"), [(False, ATTENTION), (True, KEYS_AND_VALUES)])
def test_a_rollout_counts_each_layer_once(policy, read_positions, last):
    assert Floor(policy, read_positions).rollout(100, prefix=10) == (ATTENTION + MLP + last) * 110


@pytest.mark.parametrize(
    ("read_positions", "lowest", "below", "above", "backward"),
    [
        # Projections of embeddings or frozen states need no gradient of their input.
        (False, 0, 0, ATTENTION + MLP + ATTENTION, OUTPUT + MLP + ATTENTION),
        (False, 1, ATTENTION + MLP, ATTENTION, OUTPUT),
        (True, 0, 0, ATTENTION + MLP + KEYS_AND_VALUES, OUTPUT + MLP + KEYS_AND_VALUES),
        (True, 1, ATTENTION + MLP, KEYS_AND_VALUES, 0),
    ],
)
def test_an_update_counts_all_epochs_and_one_reference_pass(policy, read_positions, lowest, below, above, backward):
    once, each_epoch = 80 + 10, 80 + 2 * 10
    expected = (below + above) * once + (above + backward) * 4 * each_epoch
    assert Floor(policy, read_positions).learner(lowest, 80, prefix=10, batches=2, epochs=4) == expected


def test_seconds_are_proportional_to_multiply_adds(policy, monkeypatch):
    from benchmarks import gemm_rate

    monkeypatch.setattr(gemm_rate, "alternate", lambda sides, repeats, device: {"product": 2.0})
    widest = gemm_rate.TOKENS * 64 * tiny.config("tiny-llama").vocab_size
    linear = max(module.weight.numel() for module in policy.modules() if isinstance(module, torch.nn.Linear))
    assert linear == 64 * 128 < widest
    assert Floor(policy, False).seconds(3 * gemm_rate.TOKENS * linear, "cpu", torch.float32) == 6.0
