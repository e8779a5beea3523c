"""``lolm dashboard``: every run in a browser, with nothing to set up."""

import argparse
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lolm_plugin.commands import import_runs
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import Address, parse
from lolm_plugin.paths import expand_home
from lolm_plugin.tracking import mongo, omniboard, record_files

AGAIN = 15.0  # seconds between looks at what the runs have done since

DESCRIPTION = f"""\
Shows Sacred runs in Omniboard, a web page with a table of runs to sort, filter and compare, and their curves.

  lolm dashboard                 the runs below ./results, from an embedded database; nothing else is needed but Node.js
  lolm dashboard results/suites/smax_quick --port 9000
  {import_runs.VARIABLE}=mongodb://USER:PASSWORD@HOST/sacred lolm dashboard      the runs of a MongoDB

Omniboard {omniboard.VERSION} is installed once into the per-user cache. Everything listens on 127.0.0.1 and stops with
Ctrl-C. Other web pages get nothing from it. Nothing can be changed or deleted without --allow-edit. With the embedded
database, runs that go on are looked at again every {AGAIN:.0f} seconds.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command until Ctrl-C or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(
        "lolm dashboard", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", metavar="DIR", nargs="?", default="results", help="runs to show; default results")
    default = os.environ.get(import_runs.VARIABLE)
    parser.add_argument(
        "--mongo", metavar="URL", default=default, help=f"a MongoDB in its place; ${import_runs.VARIABLE}"
    )
    parser.add_argument("--port", type=_port, help="of the page; default one that is free")
    parser.add_argument(
        "--allow-edit", action="store_true", help="the page may change tags, notes and columns, and delete runs"
    )
    options = parser.parse_args(list(arguments))
    folder = Path(expand_home(options.dir, "DIR"))
    if not options.mongo and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name one with runs below it, or set --mongo to a database.")
    given = parse(options.mongo, "--mongo") if options.mongo else None
    if options.port:
        omniboard.check_port(options.port)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        omniboard.install()
        with _database(given, folder) as address:
            database = mongo.connect(address)
            if not options.mongo:
                left_out: list[str] = []
                outcomes = Counter(import_runs.import_all(list(record_files.find(folder)), database, left_out))
                import_runs.print_left_out(left_out)
                print(f"{sum(outcomes.values())} runs below {folder}")
            port = options.port or omniboard.free_port()
            _show(address, database, port, options.allow_edit, None if options.mongo else folder)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port, a whole number from 1 to 65535")
    return int(text)


def _show(address: Address, database: Any, port: int, allow_edit: bool, folder: Path | None) -> None:
    from pymongo.errors import PyMongoError

    try:
        omniboard.set_up(database)
    except PyMongoError as error:
        raise ConfigError(
            f"--mongo={address} does not answer ({address.hide(str(error)).splitlines()[0][:200]}); start it, or leave "
            "--mongo out for an embedded database."
        ) from error
    process = omniboard.start(address.text, port, allow_edit)
    access = "anyone at this page may change and delete runs" if allow_edit else "read-only, see --allow-edit"
    try:
        print(f"Omniboard: http://127.0.0.1:{port}/sacred   ({access}; Ctrl-C stops it)", flush=True)
        while process.poll() is None:
            time.sleep(AGAIN)
            if folder is not None:
                list(import_runs.import_all(list(record_files.find(folder)), database, quiet=True))
        raise ConfigError("Omniboard ended by itself; run this again, with another --port if it does so again.")
    finally:
        omniboard.stop(process)


@contextmanager
def _database(address: Address | None, folder: Path) -> Iterator[Address]:
    """The address of the database: the given one, or an embedded server's that keeps its files below ``folder``."""
    if address:
        yield address
        return
    try:
        from secantus import SecantusDBServer
    except ImportError as error:
        raise ConfigError(
            "the embedded database needs the package SecantusDB, which is not installed; pip install "
            "'lolm_plugin[dashboard]', or set --mongo to a MongoDB."
        ) from error
    from wiredtiger import WiredTigerError  # which SecantusDB keeps its files with

    storage = folder / ".dashboard"
    with _alone(storage):
        try:
            server = SecantusDBServer(
                host="127.0.0.1", port=0, storage_path=str(storage), replica_set_name=None, enable_test_commands=False
            )
            server.start()
        except WiredTigerError as error:
            raise ConfigError(
                f"the dashboard's database {storage} cannot be opened ({error}); remove it, and it is made anew from "
                "the runs, without tags and notes."
            ) from error
        try:
            yield parse(f"mongodb://127.0.0.1:{server.port}/{mongo.DATABASE}", "--mongo")
        finally:
            server.stop()


@contextmanager
def _alone(storage: Path) -> Iterator[None]:
    """Hold the folder of the database, which only one process may use. Raises ConfigError where another does."""
    if storage.is_symlink():  # a folder of runs from elsewhere could have the database written where it leads
        raise ConfigError(f"{storage} is a link, and the database is not kept behind one; remove it.")
    try:
        storage.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the dashboard keeps its database in {storage}, which cannot be made ({error.strerror}); copy the runs to "
            "a folder that can be written, or set --mongo to a database."
        ) from error
    held = None
    try:
        import fcntl

        held = os.open(storage, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another lolm dashboard shows the runs below {storage.parent}; use its page, or stop it."
        ) from error
    except (ImportError, OSError):  # Windows and some network file systems; the database has a lock of its own
        pass
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
