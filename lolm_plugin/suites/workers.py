"""Workers that execute the runs of a suite: processes on this machine, or tasks of a Ray cluster."""

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
    """Interface of workers that execute runs."""

    where: str  # description for messages

    @property
    def slots(self) -> int:
        """Return how many runs may run at the same time."""

    def start(self, folder: Path) -> Any:
        """Start the run in ``folder``. Return a handle for ``poll`` and ``stop``."""

    def poll(self, handle: Any) -> int | None:
        """Return the run's exit code, or None while it runs."""

    def stop(self, handle: Any) -> None:
        """Ask the run to save and stop. Does not wait for it."""

    def close(self) -> None:
        """Release all resources."""


def wait_for_run(folder: str, threads: int) -> int:
    """Execute the run in ``folder`` as a child process, which stops when this process ends. Return its exit code."""
    process = _spawn(Path(folder), threads)
    try:
        return process.wait()
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def _spawn(folder: Path, threads: int, gpu: str | None = None) -> subprocess.Popen:
    """Start the run, on one GPU if ``gpu`` is its id. It stops when this process ends, which closes its stdin."""
    device = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    with (folder / run_process.OUTPUT).open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lolm_plugin.commands.suite_run", str(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The run changes to its own folder, so it needs the import path of this process.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": str(threads),
                **device,
            },
            start_new_session=True,  # Ctrl-C must not reach the run; the scheduler stops it
        )


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES. Starts no CUDA context."""
    if (allowed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in allowed.split(",") if gpu.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


class LocalWorkers:
    """Workers on this machine: at most ``slots`` child processes. Each new run gets the GPU with the fewest runs."""

    def __init__(self, slots: int, threads: int) -> None:
        self.slots, self._threads = slots, threads
        self._gpus, self._running = visible_gpus(), list[tuple[subprocess.Popen, str]]()
        gpus = f", {several(len(self._gpus), 'GPU')}" if self._gpus else ""
        self.where = f"{several(slots, 'worker')} on this machine, {several(threads, 'thread')} each{gpus}"

    def start(self, folder: Path) -> subprocess.Popen:
        self._running = [(run, gpu) for run, gpu in self._running if run.poll() is None]
        used = [gpu for _, gpu in self._running]
        gpu = min(self._gpus, key=used.count, default=None)
        process = _spawn(folder, self._threads, gpu)
        if gpu is not None:
            self._running.append((process, gpu))
        return process

    def poll(self, handle: subprocess.Popen) -> int | None:
        return handle.poll()

    def stop(self, handle: subprocess.Popen) -> None:
        handle.send_signal(signal.SIGTERM)

    def close(self) -> None:
        pass


class RayWorkers:
    """Workers on a Ray cluster. All nodes must share the results folder. Runs of a lost node continue on another."""

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
            # Ray's log lines about nodes would break the live table.
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
        """Return how many runs fit on the present nodes. At least 1: without a fitting node, Ray queues that run."""
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
    """Raise ConfigError if nothing listens at HOST:PORT. Ray itself would try for minutes."""
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
    """Return the address for Ray. ``local`` is a cluster running on this machine, else a new temporary one (None)."""
    if address != "local":
        return address
    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError:
        return None
    ray.shutdown()
    return "auto"
