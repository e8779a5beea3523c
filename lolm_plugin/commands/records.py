"""``lolm import-runs DIR --mongo URL`` and ``lolm export-run ID --mongo URL``: copy records to a MongoDB and back."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import parse
from lolm_plugin.paths import expand_home
from lolm_plugin.tracking import mongo, record_files
from lolm_plugin.tracking.mongo import URL_VARIABLE

SHOWN = 20  # sentences about runs that are left out; more would hide the result
IMPORT = f"""\
Copies every Sacred run below DIR, from this plugin or from EPyMARL alone, into a MongoDB for Omniboard and Sacred's own
tools. A run that is already there is updated if it has changed, even if its folder was moved.

Examples
  lolm import-runs results --mongo mongodb://127.0.0.1:27017/sacred
  {URL_VARIABLE}=mongodb://USER:PASSWORD@HOST/sacred lolm import-runs results     the password stays out of `ps`
"""
EXPORT = """\
Copies a run of a MongoDB into a folder of Sacred files, which `lolm report` and EPyMARL's plots can read.

Example
  lolm export-run 12 --mongo mongodb://127.0.0.1:27017/sacred --out exported/12
"""


def import_runs(arguments: Sequence[str]) -> int:
    """Run ``lolm import-runs``; return the exit code, 1 if the database failed."""
    from pymongo.errors import PyMongoError

    parser = _parser("lolm import-runs", IMPORT)
    parser.add_argument("dir", metavar="DIR", help="folder with runs at any depth below it")
    options = _parse(parser, arguments)
    folder = Path(expand_home(options.dir, "DIR"))
    folders = list(record_files.find(folder))
    if not folders:
        raise ConfigError(f"{folder} has no Sacred run below it (a folder with run.json); name one that does.")
    address = parse(options.mongo, "--mongo")
    try:
        imported = mongo.import_all(folders, mongo.connect(address))
    except PyMongoError as error:
        print(f"error: {address} cannot store the runs ({address.hide(str(error))}).")
        return 1
    print_left_out(imported.left_out)
    print(", ".join(f"{imported.outcomes[name]} {name}" for name in ("added", "updated", "unchanged")))
    return 0


def export_run(arguments: Sequence[str]) -> int:
    """Run ``lolm export-run``; return the exit code, 1 if the database failed."""
    from pymongo.errors import PyMongoError

    parser = _parser("lolm export-run", EXPORT)
    parser.add_argument("id", type=int, help="number of the run: the first column in Omniboard")
    parser.add_argument("--out", help="a new folder for the files; default: run-ID")
    options = _parse(parser, arguments)
    folder = Path(expand_home(options.out or f"run-{options.id}", "--out"))
    if folder.exists():
        raise ConfigError(f"--out={folder} exists already; name a new folder.")
    address = parse(options.mongo, "--mongo")
    try:
        mongo.export(mongo.connect(address), options.id, folder)
    except OSError as error:
        raise ConfigError(
            f"--out={folder} cannot be written ({error.strerror}); set it to a writable folder."
        ) from error
    except PyMongoError as error:
        print(f"error: {address} cannot give the run ({address.hide(str(error))}).")
        return 1
    print(f"run {options.id} is in {folder}")
    return 0


def print_left_out(sentences: Sequence[str]) -> None:
    """Print why runs were left out, with at most ``SHOWN`` reasons."""
    for sentence in sentences[:SHOWN]:
        print(f"left out: {sentence}")
    if len(sentences) > SHOWN:
        print(f"left out: {len(sentences) - SHOWN} more")


def _parser(name: str, description: str) -> Parser:
    parser = Parser(name, description)
    parser.add_argument(
        "--mongo", metavar="URL", default=os.environ.get(URL_VARIABLE), help=f"the database; default: ${URL_VARIABLE}"
    )
    return parser


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(list(arguments))
    if not options.mongo:
        raise ConfigError(f"no database is named; set --mongo or {URL_VARIABLE} to mongodb://HOST:PORT/NAME.")
    return options
