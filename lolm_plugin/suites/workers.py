"""Where the runs of a suite are carried out: processes on this machine, or tasks of a Ray cluster."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from lolm_plugin.doctor.words import several
from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import job


class Workers(Protocol):
    """Somewhere to run jobs."""

    where: str  # for people

    @property
    def slots(self) -> int:
        """How many jobs may be handed over at a time."""

    def start(self, folder: Path) -> Any:
        """Begin the job in ``folder``; returns what ``poll`` and ``stop`` know it by."""

    def poll(self, running: Any) -> int | None:
        """The job's exit code, None while it runs."""

    def stop(self, running: Any) -> None:
        """Have it save and end; ``poll`` tells when it has."""

    def close(self) -> None:
        """Give back what was taken."""


def run_job(folder: str, threads: int) -> int:
    """The job in ``folder`` as a child of this process, which holds its standard input open as long as it lives."""
    process = _spawn(Path(folder), threads)
    try:
        return process.wait()
    finally:
        process.stdin.close()
        process.wait()


def _spawn(folder: Path, threads: int) -> subprocess.Popen:
    with (folder / job.OUTPUT).open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lolm_plugin.commands.job", str(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Whatever the work tree is, its modules are found from the job's folder.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C is for whoever started it to pass on
        )


class LocalWorkers:
    """Child processes, ``slots`` at a time."""

    def __init__(self, slots: int, threads: int) -> None:
        self._slots, self.threads = slots, threads
        self.where = f"{several(slots, 'worker')} on this machine, {several(threads, 'thread')} each"

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, folder: Path) -> subprocess.Popen:
        return _spawn(folder, self.threads)

    def poll(self, running: subprocess.Popen) -> int | None:
        return running.poll()

    def stop(self, running: subprocess.Popen) -> None:
        running.send_signal(signal.SIGTERM)

    def close(self) -> None:
        pass


class RayWorkers:
    """Tasks of a Ray cluster whose nodes share the results' file system; a lost node's job starts again elsewhere."""

    def __init__(self, address: str, threads: int, gpus: float, memory_gb: float) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"--ray={address} needs the package ray, which is not installed; pip install 'lolm_plugin[ray]', or "
                "leave out --ray."
            ) from error
        self._ray = ray
        _check_there(address)
        try:
            # Ray's own lines about nodes that come and go would tear the table apart.
            ray.init(_address(ray, address), log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"--ray={address} cannot be reached ({reason}); set it to HOST:PORT of a cluster's head, or to local."
            ) from error
        self.threads = threads
        self._needs = {"CPU": threads, "GPU": gpus, "memory": int(memory_gb * 1e9)}
        self.where = f"Ray ({address}), {several(threads, 'CPU')}, {gpus:g} GPU and {memory_gb:g} GB a run"

    @property
    def slots(self) -> int:
        """How many runs the nodes that are there now have room for; one at least, which waits for a node."""
        there = self._ray.cluster_resources()
        return max(1, min(int(there.get(what, 0) // need) for what, need in self._needs.items() if need))

    def start(self, folder: Path) -> Any:
        needs = {"num_cpus": self._needs["CPU"], "num_gpus": self._needs["GPU"], "memory": self._needs["memory"]}
        remote = self._ray.remote(run_job).options(**needs, max_retries=-1, scheduling_strategy="SPREAD")
        return remote.remote(str(folder), self.threads)

    def poll(self, running: Any) -> int | None:
        ready, _ = self._ray.wait([running], timeout=0)
        if not ready:
            return None
        try:
            return int(self._ray.get(running))
        except self._ray.exceptions.RayError:
            return -1

    def stop(self, running: Any) -> None:
        self._ray.cancel(running)

    def close(self) -> None:
        self._ray.shutdown()


def _check_there(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return  # auto, local, ray://...
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"--ray={address} cannot be reached ({error.strerror or error}); set it to HOST:PORT of a cluster's head, "
            "or to local."
        ) from error


def _address(ray: Any, address: str) -> str | None:
    """``local`` is the cluster that was started on this machine, or else one that ends with this process."""
    if address != "local":
        return address
    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError:
        return None
    ray.shutdown()
    return "auto"
