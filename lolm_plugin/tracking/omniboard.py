"""Install Omniboard, the web page that shows Sacred's runs, into the per-user cache, and start it on a database."""

import errno
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import cache_dir

VERSION = "2.16.1"
GUARD = Path(__file__).with_name("omniboard_guard.js")
SECONDS = 60.0  # time limit for the start
INSTALL_SECONDS = 1800  # time limit; npm fetches a few hundred packages
PORT_TAKEN, PORT_REFUSED = 98, 97  # exit codes of the guard

# Columns of the table of runs: name, metric, and which value of the metric.
METRIC_COLUMNS = (
    ("win rate", "test_battle_won_mean", "last"),
    ("best win rate", "test_battle_won_mean", "max"),
    ("return", "test_return_mean", "last"),
    ("kl_coef", "kl_coef", "last"),
)
# Further columns: name, and path in the run's document.
COLUMNS = (
    ("algorithm", "config.name"),
    ("map", "config.env_args.map_name"),
    ("seed of run", "config.seed"),
    ("env steps", "steps"),
)
# Omniboard's own defaults. Its page writes them on the first visit, but a read-only dashboard refuses that.
SETTINGS = {"auto_refresh_interval": 30, "initial_fetch_size": 50, "row_height": 70}


def install() -> Path:
    """Install Omniboard with npm on the first call. Returns its start script. Raises ConfigError without Node.js."""
    home = cache_dir() / f"omniboard-{VERSION}"
    start = home / "node_modules/omniboard/dist/start.js"
    for program in ("node",) if start.is_file() else ("node", "npm"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"Omniboard needs Node.js, and there is no {program} on the PATH; install it from nodejs.org or "
                "with the system's packages, and run this again."
            )
    if start.is_file():
        return start
    print(f"Installing Omniboard {VERSION} with npm into {home}, once; this takes a minute or two.", flush=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        command = ["npm", "install", "--prefix", scratch, "--no-fund", "--no-audit", "--loglevel=error"]
        command.append(f"omniboard@{VERSION}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"npm did not install Omniboard within {INSTALL_SECONDS} s; see whether `npm view omniboard version` "
                "answers, and run this again."
            ) from error
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise ConfigError(
                f"npm could not install Omniboard ({reason[-1] if reason else done.returncode}); see whether `npm view "
                "omniboard version` answers, and run this again."
            )
        shutil.rmtree(home, ignore_errors=True)
        Path(scratch).rename(home)
        Path(scratch).mkdir()  # TemporaryDirectory removes it
    return start


def start(url: str, port: int, allow_edit: bool = False) -> subprocess.Popen:
    """Start Omniboard on 127.0.0.1 with the database at ``url``. Its log contains that address and is dropped.

    Raises:
        ConfigError: it does not start, for example because the port is in use, or it answers a request that its guard
            must refuse.
    """
    token = secrets.token_hex(16)
    guard = {"LOLM_DASHBOARD_TOKEN": token, "LOLM_DASHBOARD_EDIT": "1" if allow_edit else "0"}
    process = subprocess.Popen(
        ["node", "--require", str(GUARD), str(install()), "--no-deprecation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Not as an argument: every user of the machine could read the address there.
        env={**os.environ, "MONGO_URI": url, "PORT": str(port), **guard},
        start_new_session=True,  # so that Ctrl-C reaches only this process
    )
    deadline = time.monotonic() + SECONDS
    while _answer(port, token) != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            if process.returncode in (PORT_TAKEN, PORT_REFUSED):
                raise _no_port(port, "is in use" if process.returncode == PORT_TAKEN else "cannot be opened")
            raise ConfigError(f"Omniboard did not start on port {port} within {SECONDS:.0f} s; try again with --port.")
        time.sleep(0.1)
    if _answer(port, token, {"Host": f"rebound.example:{port}"}) != 403:
        stop(process)
        raise ConfigError("Omniboard answers requests of other pages, so it was stopped; install Node.js 18 or newer.")
    return process


def stop(process: subprocess.Popen) -> None:
    """Stop Omniboard and wait until it has ended."""
    assert process.stdin
    process.stdin.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port(port: int = 0) -> int:
    """Return ``port``, or a free one if it is 0. Raises ConfigError if no server can listen on it."""
    with socket.socket() as tried:
        if port and os.name != "nt":  # as in Node; on Windows it would allow a port in use
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
            tried.listen()
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
            raise _no_port(port, reason) from error
        return tried.getsockname()[1]


def _no_port(port: int, reason: str) -> ConfigError:
    return ConfigError(f"--port={port} {reason}; set another port, or leave --port out to use a free one.")


def set_up(database: Any) -> None:
    """Add columns and settings on the first start; later changes by users are kept."""
    columns, custom = database["omniboard.metric.columns"], database["omniboard.custom.columns"]
    if columns.find_one() is None:
        names = ("name", "metric_name", "extrema")
        columns.insert_many([{**dict(zip(names, column, strict=True)), "lastn": 1} for column in METRIC_COLUMNS])
    if custom.find_one() is None:
        custom.insert_many([{"name": name, "config_path": path} for name, path in COLUMNS])
    for name, value in {**SETTINGS, "timezone": _timezone()}.items():
        database["omniboard.settings"].update_one({"name": name}, {"$setOnInsert": {"value": value}}, upsert=True)


def _timezone() -> str:
    """Return the name of this machine's time zone; UTC if it is unknown."""
    name = os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    return name or "UTC"


def _answer(port: int, token: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Return the HTTP status of our own Omniboard's answer; None without an answer, or if another program answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)  # ignores the environment's proxies
    try:
        connection.request("GET", "/sacred/api/v1/database", headers=headers or {})
        response = connection.getresponse()
        return response.status if response.getheader("X-Lolm-Dashboard") == token else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
