"""A suite small enough to run in tests, and workers that only simulate runs."""

from pathlib import Path

import yaml

from lolm_plugin.report import records
from lolm_plugin.suites import run_process
from tests.resume.runs import TIMES

SMALL = {
    "description": "small",
    "env": "probe",
    "algorithms": {"updet_mappo": {}},
    "maps": ["duel"],
    "transfers": [{"source": "duel", "target": "target"}],
    "seeds": [1],
    "with": {
        **{"t_max": 600, "test_interval": 200, "test_nepisode": 16, "save_model_interval": 100, "torch_threads": 1},
        **{"batch_size_run": 16, "runner_log_interval": 90, "learner_log_interval": 70, "log_interval": 100},
    },
    "few_shot": {"t_max": 300},
}


def suite_file(folder: Path, **changes) -> Path:
    """Write ``SMALL`` with changes to a file. None removes a key."""
    content = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def numbers(folder):
    """Return all series measured below ``folder``, except times, by run."""
    found = {}
    for run in records.read_all(folder):
        identity = run.kind, run.algorithm, run.source_map, run.map_name, run.seed, run.status
        for name, series in run.series.items():
            if name not in TIMES:
                found[(*identity, name)] = series.steps, series.values
    return found


class SimulatedWorkers:
    """Simulated workers. A run ends at the second poll. ``codes``: part of a folder -> exit codes of its tries."""

    where = "nowhere"

    def __init__(self, slots=2, codes=None):
        self.slots, self.codes = slots, codes or {}
        self.started, self.stopped, self.most = [], [], 0
        self._polls = {}

    def start(self, folder):
        self.started.append(folder)
        handle = len(self.started)
        self._polls[handle] = 0
        self.most = max(self.most, len(self._polls))
        codes = next((codes for part, codes in self.codes.items() if part in str(folder)), [])
        (folder / run_process.OUTPUT).open("a").write(f"try\nerror: {folder.name} broke\n")
        return handle, folder, codes.pop(0) if codes else 0

    def poll(self, running):
        handle, folder, code = running
        self._polls[handle] = self._polls.get(handle, 0) + 1
        if self._polls[handle] < 2:
            return None
        del self._polls[handle]
        if code == 0:
            run_process.write_json(folder / run_process.DONE, {})
        return code

    def stop(self, running):
        self.stopped.append(running[1])

    def close(self):
        pass
