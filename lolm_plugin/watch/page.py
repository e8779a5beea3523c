"""The page of battles: one html file that opens from disk and needs no network."""

import base64
import gzip
from collections.abc import Sequence
from pathlib import Path

from lolm_plugin import strict_json
from lolm_plugin.watch.record import Record

TEMPLATE, MARK = "page.html", "@RECORDS@"


def html(records: Sequence[Record]) -> str:
    """Return the page of one record, or of two side by side.

    The records are compressed and in base64, so that no text of theirs can end the script. The page shows their texts
    only as text.
    """
    text = strict_json.dumps([record.model_dump() for record in records], separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8").replace(MARK, packed)
