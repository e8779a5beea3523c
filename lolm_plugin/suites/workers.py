"""Workers that carry out the runs of a suite: processes on this machine, or tasks of a Ray cluster."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import run_process
from lolm_plugin.wording import several


class Workers(Protocol):
    """Carries out runs."""

    where: str  # for people

    @property
    def slots(self) -> int:
        """The number of runs that may be started at a time."""

    def start(self, folder: Path) -> Any:
        """Start the run in ``folder``; returns a handle for ``poll`` and ``stop``."""

    def poll(self, handle: Any) -> int | None:
        """Return the run's exit code; None while it runs."""

    def stop(self, handle: Any) -> None:
        """Ask the run to save and end, without waiting."""

    def close(self) -> None:
        """Release the resources."""


def wait_for_run(folder: str, threads: int) -> int:
    """Carry out the run in ``folder`` as a child of this process, which ends it when it ends itself."""
    process = _spawn(Path(folder), threads)
    try:
        return process.wait()
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def _spawn(folder: Path, threads: int) -> subprocess.Popen:
    """Start the run; it stops when this process, which holds its standard input open, is gone."""
    with (folder / run_process.OUTPUT).open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lolm_plugin.commands.suite_run", str(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Modules are found from the run's folder, whatever the work tree is.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C is for whoever started it to pass on
        )


class LocalWorkers:
    """Child processes, ``slots`` at a time."""

    def __init__(self, slots: int, threads: int) -> None:
        self.slots, self._threads = slots, threads
        self.where = f"{several(slots, 'worker')} on this machine, {several(threads, 'thread')} each"

    def start(self, folder: Path) -> subprocess.Popen:
        return _spawn(folder, self._threads)

    def poll(self, handle: subprocess.Popen) -> int | None:
        return handle.poll()

    def stop(self, handle: subprocess.Popen) -> None:
        handle.send_signal(signal.SIGTERM)

    def close(self) -> None:
        pass


class RayWorkers:
    """Tasks of a Ray cluster whose nodes share the results' file system; a lost node's runs continue on another."""

    def __init__(self, address: str, threads: int, gpus: float, memory_gb: float) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"--ray={address} needs the package ray, which is not installed; pip install 'lolm_plugin[ray]', or "
                "leave out --ray."
            ) from error
        self._ray = ray
        _check_reachable(address)
        try:
            # Ray's own lines about nodes that come and go would tear the table apart.
            ray.init(_address(ray, address), log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"--ray={address} cannot be reached ({reason}); set it to HOST:PORT of a cluster's head, or to local."
            ) from error
        self._threads = threads
        self._needs = {"CPU": threads, "GPU": gpus, "memory": int(memory_gb * 1e9)}
        self.where = f"Ray ({address}), {several(threads, 'CPU')}, {gpus:g} GPU and {memory_gb:g} GB a run"

    @property
    def slots(self) -> int:
        """The number of runs that the present nodes have room for; at least one, which waits for a node."""
        resources = self._ray.cluster_resources()
        return max(1, min(int(resources.get(what, 0) // need) for what, need in self._needs.items() if need))

    def start(self, folder: Path) -> Any:
        needs = dict(zip(("num_cpus", "num_gpus", "memory"), self._needs.values(), strict=True))
        remote = self._ray.remote(wait_for_run).options(**needs, max_retries=-1, scheduling_strategy="SPREAD")
        return remote.remote(str(folder), self._threads)

    def poll(self, handle: Any) -> int | None:
        ready, _ = self._ray.wait([handle], timeout=0)
        if not ready:
            return None
        try:
            return int(self._ray.get(handle))
        except self._ray.exceptions.RayError:
            return -1

    def stop(self, handle: Any) -> None:
        self._ray.cancel(handle)

    def close(self) -> None:
        self._ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ConfigError if nothing listens at HOST:PORT: Ray itself would try for minutes."""
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
    """Return Ray's address: ``local`` is a cluster that was started here, or one that ends with this process."""
    if address != "local":
        return address
    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError:
        return None
    ray.shutdown()
    return "auto"
