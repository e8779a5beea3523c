"""``lolm import-runs DIR --mongo URL`` and ``lolm export-run ID --mongo URL``: records into a MongoDB, and back."""

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

SHOWN = 20  # sentences about what is left out; more would hide the result
IMPORT = f"""\
Writes every Sacred file run below DIR, of this plugin or of EPyMARL alone, into a MongoDB, where Omniboard and Sacred's
own tools find it. A run that is there already is updated if it changed and left alone if not, wherever it lies now.

  lolm import-runs results --mongo mongodb://127.0.0.1:27017/sacred
  {URL_VARIABLE}=mongodb://USER:PASSWORD@HOST/sacred lolm import-runs results     the password stays out of `ps`
"""
EXPORT = """\
Writes a run of a MongoDB, whoever put it there, as a Sacred file record, which `lolm report` and EPyMARL's plots read.

  lolm export-run 12 --mongo mongodb://127.0.0.1:27017/sacred --out exported/12
"""


def import_runs(arguments: Sequence[str]) -> int:
    """Run ``lolm import-runs``; returns the exit code, 1 if the database failed."""
    from pymongo.errors import PyMongoError

    parser = _parser("lolm import-runs", IMPORT)
    parser.add_argument("dir", metavar="DIR", help="a folder with runs somewhere below it")
    options = _parse(parser, arguments)
    folder = Path(expand_home(options.dir, "DIR"))
    folders = list(record_files.find(folder))
    if not folders:
        raise ConfigError(f"{folder} has no Sacred run below it (a folder with run.json); name one that does.")
    address = parse(options.mongo, "--mongo")
    try:
        imported = mongo.import_all(folders, mongo.connect(address))
    except PyMongoError as error:
        print(f"error: {address} does not take the runs ({address.hide(str(error))}).")
        return 1
    print_left_out(imported.left_out)
    print(", ".join(f"{imported.outcomes[name]} {name}" for name in ("added", "updated", "unchanged")))
    return 0


def export_run(arguments: Sequence[str]) -> int:
    """Run ``lolm export-run``; returns the exit code, 1 if the database failed."""
    from pymongo.errors import PyMongoError

    parser = _parser("lolm export-run", EXPORT)
    parser.add_argument("id", type=int, help="the run's number, Omniboard's first column")
    parser.add_argument("--out", help="a folder that does not exist yet; default run-ID")
    options = _parse(parser, arguments)
    folder = Path(expand_home(options.out or f"run-{options.id}", "--out"))
    if folder.exists():
        raise ConfigError(f"--out={folder} exists already; name a folder that does not.")
    address = parse(options.mongo, "--mongo")
    try:
        mongo.export(mongo.connect(address), options.id, folder)
    except OSError as error:
        raise ConfigError(
            f"--out={folder} cannot be written ({error.strerror}); set it to a folder that can be."
        ) from error
    except PyMongoError as error:
        print(f"error: {address} does not give the run ({address.hide(str(error))}).")
        return 1
    print(f"run {options.id} is in {folder}")
    return 0


def print_left_out(sentences: Sequence[str]) -> None:
    """Print what was left out, the first few in full."""
    for sentence in sentences[:SHOWN]:
        print(f"left out: {sentence}")
    if len(sentences) > SHOWN:
        print(f"left out: {len(sentences) - SHOWN} more")


def _parser(name: str, description: str) -> Parser:
    parser = Parser(name, description)
    parser.add_argument("--mongo", metavar="URL", default=os.environ.get(URL_VARIABLE), help=f"default ${URL_VARIABLE}")
    return parser


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(list(arguments))
    if not options.mongo:
        raise ConfigError(f"no database is named; set --mongo or {URL_VARIABLE} to mongodb://HOST:PORT/NAME.")
    return options
