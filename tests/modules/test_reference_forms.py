"""Tests of the published networks' parameter counts."""

import pytest

from tests.modules.networks import REFERENCE, count, new_agent, new_critic


@pytest.mark.parametrize("map_name", ["3m", "MMM2"])
@pytest.mark.parametrize(
    ("name", "actor", "critic"),
    [("updet", 226_694, 227_137), ("asn_attention", 130_438, 131_649), ("dt2gs", 264_922, 265_881)],
)
def test_parameter_counts_of_the_forms_released_with_dt2gs(name, actor, critic, map_name):
    assert count(new_agent(name, map_name, changes=REFERENCE)) == actor
    assert count(new_critic(name, map_name, changes=REFERENCE)) == critic


def test_parameter_count_of_updets_own_form():
    assert count(new_agent("updet paper", changes=REFERENCE)) == 43_398
