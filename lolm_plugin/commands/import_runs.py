"""``lolm import-runs DIR --mongo URL``: file records into a MongoDB, as often as one likes."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden, parse
from lolm_plugin.paths import expand_home
from lolm_plugin.tracking import mongo, record_files, run_documents
from lolm_plugin.tracking.record_files import RecordError

NAMED = 20  # sentences about what is left out; more would hide the result
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
    folder = Path(expand_home(options.dir, "DIR"))
    folders = list(record_files.find(folder))
    if not folders:
        raise ConfigError(f"{folder} has no Sacred run below it (a folder with run.json); name one that does.")
    address = parse(options.mongo, "--mongo")
    database = mongo.connect(address)
    left_out: list[str] = []
    try:
        outcomes = Counter(import_all(folders, database, left_out))
    except PyMongoError as error:
        print(f"error: {address} does not take the runs ({address.hide(str(error))}).")
        return 1
    print_left_out(left_out)
    print(", ".join(f"{outcomes[name]} {name}" for name in ("added", "updated", "unchanged")))
    return 0


def import_all(
    folders: Sequence[Path], database: Any, left_out: list[str] | None = None, quiet: bool = False
) -> Iterator[mongo.Outcome]:
    """Write each record that can be used; yields the outcomes.

    ``left_out`` gets a sentence for each record, or file of one, that cannot be used; the others are written all the
    same. Raises pymongo.errors.PyMongoError where the database fails.
    """
    from bson.errors import BSONError
    from pymongo.errors import DocumentTooLarge, WriteError

    left_out = [] if left_out is None else left_out
    for folder in tqdm(folders, desc="import", unit="run", disable=quiet, leave=False):
        try:
            documents = run_documents.read(folder)
            outcome = mongo.write(database, documents)
        except RecordError as error:
            left_out.append(str(error))
        # What a database refuses in one record, it takes in others.
        except (BSONError, DocumentTooLarge, WriteError, OverflowError) as error:
            left_out.append(f"{record_files.shown(folder, 500)}: the database refuses it ({hidden(str(error))[:200]}).")
        else:
            left_out += documents.left_out
            yield outcome


def print_left_out(sentences: Sequence[str]) -> None:
    """Name what was left out, the first few in full."""
    for sentence in sentences[:NAMED]:
        print(f"left out: {sentence}")
    if len(sentences) > NAMED:
        print(f"left out: {len(sentences) - NAMED} more")
