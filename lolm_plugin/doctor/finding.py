"""One line of what ``lolm doctor`` prints."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Something that is ``usable``, or what to do about it."""

    usable: bool
    what: str
    detail: str

    def __str__(self) -> str:
        return f"[{'ok' if self.usable else '--'}] {self.what}: {self.detail}"
