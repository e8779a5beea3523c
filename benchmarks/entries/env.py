"""``env``: one step of one battle while ``updet_mappo`` plays 32 battles of SMAX's 3m at once, whatever ``--map`` says.

There is no plain port of it: what else ``benchmarks/env_speed.py`` measures stands among the checks.
"""

from benchmarks import env_speed
from benchmarks.bench import Bench
from benchmarks.entry import Entry


def measure(bench: Bench) -> list[Entry]:
    """Seconds of an env step."""
    found = env_speed.measure(seconds=bench.setting.env_seconds)
    bench.checks |= {f"env_{name}": value for name, value in found.items()}
    return [Entry("env", None, 1 / found["rollout_steps_per_second"])]
