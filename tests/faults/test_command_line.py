"""The supervised runner through the command line, in a fresh process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PATHS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("host", PATHS)
def test_env_restarts_is_logged_even_without_restarts(tmp_path, host):
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "main.py", "--config=lolm_mappo_tiny", "--env-config=probe"),
            *(
                f"--epymarl={PATHS[host] or 'none'}",
                "with",
                "runner=supervised_parallel",
                "t_max=2",
                "save_model=False",
            ),
            *(f"{key}=2" for key in ("batch_size_run", "test_nepisode")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("metrics.json")
    metrics = json.loads(file.read_text())
    assert set(metrics["env_restarts"]["values"]) == {0}
    assert metrics["env_restarts"]["steps"] == metrics["return_mean"]["steps"]
    documented = re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text())
    assert set(metrics) <= set(documented)
