"""Runs of a suite on a Ray cluster, also if a node dies."""

import os
import signal
import time

import psutil
import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.suites.workers import RayWorkers
from tests.resume.runs import PATIENCE
from tests.suites.runs_for_suites import numbers, suite_file
from tests.suites.test_compare import command


def test_an_unreachable_cluster_is_refused():
    with pytest.raises(ConfigError, match=r"--ray=127.0.0.1:1 cannot be reached"):
        RayWorkers("127.0.0.1:1", threads=1, gpus=0, memory_gb=0.1)


@pytest.fixture
def cluster():
    """Start a cluster of two nodes with one CPU each on this machine; yield the cluster and the second node."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    yield nodes, second
    nodes.shutdown()


def is_run(process):
    """Return True if a process is a run of a suite and still exists."""
    try:
        return "lolm_plugin.commands.suite_run" in process.cmdline()
    except psutil.Error:
        return False


@pytest.mark.slow
def test_runs_of_a_dead_node_continue_on_another(tmp_path, cluster):
    nodes, second = cluster
    suite_file(tmp_path, transfers=None, maps=["duel", "target"])
    straight = command(tmp_path, "straight", "--workers=2")
    assert straight.wait(PATIENCE) == 0, straight.communicate()
    process = command(tmp_path, "ray", f"--ray={nodes.address}", "--memory-gb=0.1")
    deadline = time.monotonic() + PATIENCE
    raylet = next(p for p in second.live_processes() if "raylet" in p[0])[1].pid
    while not any(map(is_run, psutil.Process(raylet).children(recursive=True))):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    os.kill(raylet, signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, process.communicate()
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "straight")
