"""Checkpoints of versions with fewer keys."""

from types import SimpleNamespace

import pytest

from lolm_plugin import resuming
from lolm_plugin.config_files import merge


@pytest.mark.parametrize(("facts", "expected"), [({}, None), ({"time_limits": "truncated"}, True)])
def test_time_limits_that_were_an_end_stay_one(tmp_path, tiny_args, facts, expected):
    config = vars(tiny_args({"bootstrap_time_limit": True}))
    found = SimpleNamespace(facts={"config": config, **facts}, path=tmp_path / "results/models/run/100")
    assert resuming.configuration(found)["bootstrap_time_limit"] is expected


def test_keys_that_came_later_have_their_defaults(tmp_path, tiny_args):
    config = vars(tiny_args())
    older = merge(config, {"llm": {"token_budget": 99}})
    for key in ("read_positions", "keep_rollout_states"):
        del older["llm"][key]
    del older["target_kl"], older["head"]["features"]
    found = SimpleNamespace(facts={"config": older}, path=tmp_path / "results/models/run/100")
    resumed = resuming.configuration(found)
    assert resumed["llm"]["token_budget"] == 99
    assert resumed["llm"]["read_positions"] is True
    assert resumed["head"]["features"] == "raw"
    assert resumed["target_kl"] is None
    assert resumed["checkpoint_path"] == str(tmp_path / "results/models/run")
