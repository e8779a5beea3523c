"""Which matrix products are the floor: counted by hand for a model of two layers."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from benchmarks import gemm_rate
from lolm_plugin.llm import tiny

Q, KV, OUT, UP, DOWN = (64, 64), (32, 64), (64, 64), (128, 64), (64, 128)
ATTENTION = Counter([Q, KV, KV, OUT])
MLP = Counter([UP, UP, DOWN])
KEYS_AND_VALUES = Counter([KV, KV])


@pytest.fixture(scope="module")
def policy():
    model = AutoModel.from_config(tiny.config("tiny-llama"))
    return get_peft_model(model, LoraConfig(target_modules="all-linear"))


def times(counter, tokens):
    return {shape: count * tokens for shape, count in counter.items()}


@pytest.mark.parametrize(("read_positions", "last"), [(False, ATTENTION), (True, KEYS_AND_VALUES)])
def test_a_rollout_multiplies_each_layer_once_and_ends_in_the_last_attention(policy, read_positions, last):
    work = gemm_rate.rollout_work(policy, [[30, 20], [], [50]], 10, token_budget=40, read_positions=read_positions)
    assert work.forward == times(ATTENTION + MLP + last, 30 + 20 + 50 + 10)
    assert not work.backward
    assert work.rows == 100 // 4  # each step's 50 tokens are more than the 30 that fit beside the beginning


@pytest.mark.parametrize(
    ("read_positions", "lowest", "below", "above", "backward"),
    [
        # What reads the embeddings wants no gradient of its input; nor what reads the frozen trunk.
        (False, 0, Counter(), ATTENTION + MLP + ATTENTION, Counter([OUT]) + MLP + ATTENTION),
        (False, 1, ATTENTION + MLP, ATTENTION, Counter([OUT])),
        (True, 0, Counter(), ATTENTION + MLP + KEYS_AND_VALUES, Counter([OUT]) + MLP + KEYS_AND_VALUES),
        (True, 1, ATTENTION + MLP, KEYS_AND_VALUES, Counter()),
    ],
)
def test_an_update_is_epochs_and_one_pass_of_the_reference(policy, read_positions, lowest, below, above, backward):
    work = gemm_rate.learner_work(policy, lowest, [40, 40], 10, 50, epochs=4, read_positions=read_positions)
    once, each_epoch = 80 + 10, 80 + 2 * 10
    expected = Counter(times(below, once)) + Counter(times(above, once + 4 * each_epoch))
    assert work.forward == expected
    assert work.backward == times(backward, 4 * each_epoch)
    assert all(parameter.requires_grad for name, parameter in policy.named_parameters() if "lora_" in name)


def test_seconds_are_those_of_the_products(policy, monkeypatch):
    work = gemm_rate.Work(10, {(3, 4): 20, (5, 6): 100}, {(3, 4): 40})
    shown = []

    def second(product, device):
        shown.append(tuple(product().shape))
        return 1.0

    monkeypatch.setattr(gemm_rate, "_seconds", second)
    assert work.seconds("cpu", torch.float32) == 2 + 10 + 4
    assert sorted(shown) == [(10, 3), (10, 4), (10, 5)]
