"""Where the time goes, by kind of work."""

import pytest
import torch

from benchmarks import shares


def test_operators_are_told_apart():
    kinds = {
        "aten::mm": "matrix products",
        "aten::addmm": "matrix products",
        "mkldnn::_linear_pointwise": "matrix products",
        "aten::bmm": "attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "aten::_softmax": "attention",
        "aten::copy_": "copies",
        "aten::cat": "copies",
        "aten::mul": shares.REST,
        "aten::rsqrt": shares.REST,
    }
    assert {name: shares.kind(name) for name in kinds} == kinds


def test_shares_are_those_of_the_time():
    x = torch.ones(600, 600)
    found = shares.shares(lambda: [x @ x for _ in range(5)])
    assert sum(found.values()) == pytest.approx(1)
    assert found["matrix products"] > 0.9


def test_it_prints_a_column_for_each_side(capsys):
    assert shares.main(["--model=tiny-llama", "--num-layers=1", "--map=3m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split("|")) for line in lines] == [7] * 6  # four sides and the kind, between the outer bars
    assert "engine, learner" in lines[0]
