"""``lolm import-runs DIR --mongo URL``: file records into a MongoDB, as often as one likes."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import parse
from lolm_plugin.tracking import mongo, run_documents

VARIABLE = "LOLM_MONGO_URL"
DESCRIPTION = """\
Writes every Sacred file run below DIR, of this plugin or of EPyMARL alone, into a MongoDB, where Omniboard and Sacred's
own tools find it. A run that is there already is updated if it changed and left alone if not, wherever it lies now.

  lolm import-runs results --mongo mongodb://127.0.0.1:27017/sacred
  LOLM_MONGO_URL=mongodb://USER:PASSWORD@HOST/sacred lolm import-runs results     the password stays out of `ps`
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, 1 where the database failed."""
    from pymongo.errors import PyMongoError

    parser = argparse.ArgumentParser(
        "lolm import-runs", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", metavar="DIR", help="a folder with runs somewhere below it")
    parser.add_argument("--mongo", metavar="URL", default=os.environ.get(VARIABLE), help=f"default ${VARIABLE}")
    options = parser.parse_args(list(arguments))
    if not options.mongo:
        raise ConfigError(f"no database is named; set --mongo or {VARIABLE} to mongodb://HOST:PORT/NAME.")
    folders = list(find(Path(options.dir)))
    if not folders:
        raise ConfigError(f"{options.dir} has no Sacred run below it (a folder with run.json); name one that does.")
    address = parse(options.mongo, "--mongo")
    database = mongo.connect(address)
    try:
        outcomes = Counter(import_all(folders, database))
    except PyMongoError as error:
        print(f"error: {address} does not take the runs ({address.hide(str(error))}).")
        return 1
    print(", ".join(f"{outcomes[name]} {name}" for name in ("added", "updated", "unchanged")))
    return 0


def find(folder: Path) -> Iterator[Path]:
    """Folders of records, in the order of their paths."""
    yield from (path.parent for path in sorted(folder.rglob("run.json")))


def import_all(folders: Sequence[Path], database: Any, quiet: bool = False) -> Iterator[mongo.Outcome]:
    """Write each record that is whole; yields what became of it."""
    for folder in tqdm(folders, desc="import", unit="run", disable=quiet, leave=False):
        documents = run_documents.read(folder)
        if documents is not None:
            yield mongo.write(database, documents)
