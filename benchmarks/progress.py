"""One bar for the whole benchmark. It counts the plain port's tokens, which is where the time goes."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A bar on stderr with the time left; ``total`` in padded tokens of the plain port."""

    def __init__(self, total: int) -> None:
        layout = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed} elapsed, {remaining} left"
        self._bar = tqdm(total=max(1, total), bar_format=layout, file=sys.stderr, mininterval=0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not kind:
            self.tick(self._bar.total)
        self._bar.set_description_str("stopped" if kind else "done")
        self._bar.close()

    def stage(self, name: str) -> None:
        """What is measured now."""
        self._bar.set_description_str(name)

    def say(self, text: str) -> None:
        """A line above the bar, so that what is stopped has not measured in vain."""
        self._bar.write(text, file=sys.stderr)

    def tick(self, tokens: int) -> None:
        """So many more are done."""
        self._bar.update(min(tokens, self._bar.total - self._bar.n))
