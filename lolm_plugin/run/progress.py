"""Progress with the time left: a bar on a terminal, a line in the log every 20 seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LOG_EVERY_SECONDS = 20


def progress(
    work: Iterable[Item], label: str, each: int, log: logging.Logger, unit: str, total: int | None = None
) -> Iterator[Item]:
    """Iterate over ``work`` and show the progress; each item counts ``each`` units, and there are ``total`` items."""
    total = (total or len(work)) * each  # type: ignore[arg-type]
    terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    started = logged = time.monotonic()
    with tqdm(total=total, desc=label, unit=unit, file=sys.__stderr__, disable=not terminal, leave=False) as bar:
        for done, item in enumerate(work, 1):
            yield item
            bar.update(each)
            now = time.monotonic()
            if not terminal and now - logged > LOG_EVERY_SECONDS:
                logged = now
                left = (now - started) * (total - done * each) / (done * each)
                log.info("%s: %d/%d %ss | %s left", label, done * each, total, unit, tqdm.format_interval(left))
