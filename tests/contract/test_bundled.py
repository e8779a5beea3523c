"""What the bundled host does beyond the contract: clear errors, a worker's death, plain numbers for Sacred."""

import logging
import os
import pickle
import signal
import time
from argparse import Namespace

import numpy as np
import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.host import open_host
from lolm_plugin.host.bundled import parallel_runner
from lolm_plugin.host.bundled.logger import Logger
from lolm_plugin.host.bundled.parallel_runner import ParallelRunner, Portable
from lolm_plugin.host.bundled.transforms import OneHot

from .fakes import FakeEnv, FakeMAC, Scalars, settings


@pytest.fixture(scope="module")
def bundled():
    return open_host(None)


@pytest.fixture
def registries(bundled, monkeypatch):
    monkeypatch.setitem(bundled.registries["env"], "fake", FakeEnv)
    monkeypatch.setitem(bundled.registries["mac"], "fake", FakeMAC)
    return bundled.registries


def parallel(bundled, **changes):
    args = Namespace(**settings(bundled, runner="parallel", batch_size_run=3, **changes))
    return ParallelRunner(args, Scalars())


@pytest.fixture(autouse=True)
def _seeds_by_index(monkeypatch):
    monkeypatch.setattr(parallel_runner, "environment_seed", lambda seed, i: seed + i)


class Dying(FakeEnv):
    """The second copy is killed or stopped in its second step, or raises."""

    def step(self, actions):
        if self.t == 1 and self.seed == 2:
            if self.map_name == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.map_name == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            raise ZeroDivisionError
        return super().step(actions)

    def __init__(self, map_name, **rest):
        super().__init__(map_name, **rest)
        self.map_name = map_name


def processes(runner):
    return [worker.process for worker in runner.workers]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", r"died \(exit code -9\)"),
        ("raises", r"died \(exit code 1\)"),
        ("stopped", r"did not answer within worker_timeout=1 seconds; raise worker_timeout"),
    ],
)
def test_a_dead_or_silent_worker_is_an_error(bundled, registries, monkeypatch, how, said):
    monkeypatch.setattr(parallel_runner, "CLOSE_TIMEOUT", 0.5)
    monkeypatch.setitem(registries["env"], "fake", Dying)
    runner = parallel(bundled, env_args={"map_name": how, "seed": 1}, worker_timeout=1.0)
    scheme = {key: {"vshape": size} for key, size in (("state", 5), ("reward", 1), ("terminated", 1))}
    scheme["obs"] = {"vshape": 3, "group": "agents"}
    scheme["avail_actions"] = {"vshape": 3, "group": "agents"}
    scheme["actions"] = {"vshape": 1, "group": "agents", "dtype": torch.long}
    runner.args.n_agents = 2
    runner.setup(scheme, {"agents": 2}, {}, FakeMAC(scheme, {}, runner.args))
    with pytest.raises(RuntimeError, match=rf"Environment worker 1 {said}"):
        runner.run()
    runner.close_env()
    assert not any(process.is_alive() for process in processes(runner))


def test_an_environment_that_refuses_its_arguments_ends_every_worker(bundled, registries, monkeypatch):
    started = []

    def refuse(seed, **rest):
        if seed == 3:
            raise ConfigError("map_name=field is no map; set map_name to meadow.")
        return FakeEnv(seed=seed, **rest)

    monkeypatch.setitem(registries["env"], "fake", refuse)
    close = ParallelRunner.close_env
    monkeypatch.setattr(ParallelRunner, "close_env", lambda self: (close(self), started.extend(processes(self))))
    with pytest.raises(ConfigError, match=r"^map_name=field is no map; set map_name to meadow"):
        parallel(bundled)
    assert len(started) == 3
    assert not any(process.is_alive() for process in started)


def test_closing_ends_every_worker(bundled, registries):
    runner = parallel(bundled)
    assert all(process.is_alive() for process in processes(runner))
    runner.close_env()
    assert [process.exitcode for process in processes(runner)] == [0, 0, 0]


def test_workers_end_when_their_parent_dies(bundled, registries):
    """A forked parent starts workers and is killed; no worker may be left behind."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            runner = parallel(bundled)
            os.write(write, " ".join(str(process.pid) for process in processes(runner)).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    workers = [int(pid) for pid in os.read(read, 1000).split()]
    os.close(read)
    assert len(workers) == 3
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # Far longer than it takes: a limit for the case that it never happens.
    for _ in range(2000):
        left = [pid for pid in workers if running(pid)]
        if not left:
            break
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [], "workers outlived their parent"


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_constructors_reach_workers_that_are_not_forked():
    here = 5
    assert pickle.loads(pickle.dumps(Portable(lambda: here + 1)))() == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "sc2"}, "^env=sc2 is not known to the bundled host, which has .*fake.*EPYMARL_HOME"),
        ({"runner": "fast"}, "^runner=fast is not known to the bundled host, which has episode, parallel"),
        ({"mac": "basic_mac"}, "^mac=basic_mac is not known"),
        ({"learner": "q_learner"}, "^learner=q_learner is not known"),
        ({"use_wandb": True}, "^use_wandb=True has nowhere to log to; set wandb_team"),
        ({"batch_size_run": 2}, "^batch_size_run=2 cannot be run by runner=episode"),
        ({"checkpoint_path": "gone"}, "^checkpoint_path=gone is not a folder"),
        ({"checkpoint_path": "."}, "^checkpoint_path=. has no checkpoint"),
    ],
    ids=str,
)
def test_what_a_user_can_get_wrong(bundled, registries, changes, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        bundled.run(Scalars(), settings(bundled, **changes), logging.getLogger("contract"))


def test_sacred_gets_plain_floats_and_no_growing_info():
    logger, sacred = Logger(logging.getLogger("contract")), Scalars()
    logger.setup_sacred(sacred)
    values = [3, np.float32(0.5), np.int64(2), True, torch.tensor(1.5), np.array([4.0])[0]]
    for t, value in enumerate(values):
        logger.log_stat("score", value, t)
    logger.log_stat("secret", 1, 0, to_sacred=False)
    assert sacred.logged == {"score": [(0, 3), (1, 0.5), (2, 2), (3, 1), (4, 1.5), (5, 4)]}
    assert {type(value) for _, value in sacred.logged["score"]} == {float}
    assert sacred.info == {}
    assert logger.stats["secret"] == [(0, 1.0)]


def test_the_table_shows_recent_means(caplog):
    caplog.set_level(logging.INFO)
    logger = Logger(logging.getLogger("contract"))
    for t in range(1, 8):
        logger.log_stat("loss", t, t)
        logger.log_stat("epsilon", 1 / t, t)
    logger.log_stat("episode", 12, 7)
    logger.print_recent_stats()
    lines = caplog.records[-1].message.splitlines()
    assert lines[0] == f"Recent Stats | t_env: {7:>10} | Episode: {12:>8}"
    assert lines[1].split() == ["epsilon:", "0.1429", "loss:", "5.0000"]


def test_one_hot():
    one_hot = OneHot(3)
    assert one_hot.transform(torch.tensor([[[2], [0]]])).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert one_hot.infer_output_info((1,), torch.long) == ((3,), torch.float32)
