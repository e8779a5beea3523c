"""What a released version wrote is read for ever: it plays, and training goes on from it."""

from pathlib import Path

import pytest
from benchmarks.smol_baseline import styles

from lolm_plugin.envs.probe_tasks import optimal_return
from tests.resume.runs import line, series, steps, train

RELEASED = Path(__file__).parent / "released"  # a trained lolm_mappo_tiny of every version, with lora.rank=2
VERSIONS = sorted(path.name for path in RELEASED.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_plays_and_goes_on(version, tmp_path):
    folder = RELEASED / version
    arguments = line("lolm_mappo_tiny", "probe", "retreat", f"checkpoint_path={folder}", "lora.rank=2")
    with styles():  # the words that it was trained with; the compact style has others since
        assert train(tmp_path / "play", *arguments, "evaluate=True", "prompt.style=compact_before") == 0
    assert series(tmp_path / "play", 1)["test_return_mean"][1][-1] > 0.9 * optimal_return("retreat")
    (step,) = (int(path.name) for path in folder.iterdir())
    assert train(tmp_path / "learn", *arguments, f"t_max={step + 50}") == 0
    assert steps(tmp_path / "learn")[-1] > step


@pytest.mark.parametrize("version", VERSIONS)
def test_is_small(version):
    assert sum(path.stat().st_size for path in (RELEASED / version).rglob("*")) < 500_000
