"""``lolm dashboard``: show all runs in a browser, without any setup."""

import argparse
import os
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lolm_plugin.commands.records import print_left_out
from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import Address, parse
from lolm_plugin.paths import expand_home
from lolm_plugin.tracking import mongo, omniboard, record_files
from lolm_plugin.tracking.mongo import URL_VARIABLE

IMPORT_SECONDS = 15.0  # between two imports of new results

DESCRIPTION = f"""\
Shows Sacred runs in Omniboard. This web page has a table of runs to sort, filter and compare, and the runs' curves.

Examples
  lolm dashboard                 the runs below ./results, in an embedded database; only Node.js must be installed
  lolm dashboard results/suites/smax_quick --port 9000
  {URL_VARIABLE}=mongodb://USER:PASSWORD@HOST/sacred lolm dashboard      the runs of a MongoDB

Omniboard {omniboard.VERSION} is installed once into the per-user cache. Page and database listen only on 127.0.0.1, and
Ctrl-C stops them. Other web pages cannot read from them. Without --allow-edit, nothing can be changed or deleted. With
the embedded database, new results are imported every {IMPORT_SECONDS:.0f} seconds.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command until Ctrl-C or SIGTERM; return the exit code."""
    parser = Parser("lolm dashboard", DESCRIPTION)
    parser.add_argument("dir", metavar="DIR", nargs="?", default="results", help="folder with runs; default: results")
    url = os.environ.get(URL_VARIABLE)
    parser.add_argument(
        "--mongo", metavar="URL", default=url, help=f"a MongoDB instead of DIR; default: ${URL_VARIABLE}"
    )
    parser.add_argument("--port", type=_port, default=0, help="port of the page, such as 9000; default: a free one")
    parser.add_argument(
        "--allow-edit", action="store_true", help="let the page change tags, notes and columns, and delete runs"
    )
    options = parser.parse_args(list(arguments))
    folder = Path(expand_home(options.dir, "DIR"))
    if not options.mongo and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name one with runs below it, or set --mongo to a database.")
    given = parse(options.mongo, "--mongo") if options.mongo else None
    omniboard.free_port(options.port)  # an error comes before the slow steps
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        omniboard.install()
        with nullcontext(given) if given else mongo.embedded(folder) as address:
            database = mongo.connect(address)
            if not given:
                imported = mongo.import_all(list(record_files.find(folder)), database)
                print_left_out(imported.left_out)
                print(f"{imported.outcomes.total()} runs below {folder}")
            _show(address, database, omniboard.free_port(options.port), options.allow_edit, None if given else folder)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is not a port; use a whole number from 1 to 65535")
    return int(text)


def _show(address: Address, database: Any, port: int, allow_edit: bool, folder: Path | None) -> None:
    """Show the database until Omniboard ends. Import ``folder`` again every ``IMPORT_SECONDS``."""
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
            time.sleep(IMPORT_SECONDS)
            if folder is not None:
                mongo.import_all(list(record_files.find(folder)), database, quiet=True)
        raise ConfigError("Omniboard ended unexpectedly; run the command again, with another --port if it ends again.")
    finally:
        omniboard.stop(process)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
