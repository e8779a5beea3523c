"""One line of the result."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """``baseline`` and ``engine`` are seconds, or bytes in memory; None where something does not apply."""

    name: str
    baseline: float | None
    engine: float
    max_abs_diff: float | None = None
    gemm_fraction: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better the engine is."""
        return self.baseline / self.engine if self.baseline is not None else None

    def as_json(self) -> dict[str, Any]:
        """The keys that scripts read."""
        names = ("name", "baseline", "engine", "ratio", "max_abs_diff", "gemm_fraction")
        return {name: getattr(self, name) for name in names}


def table(entries: list[Entry]) -> str:
    """All of them, aligned."""
    rows = [("entry", "plain port", "engine", "ratio", "max abs diff", "of the GEMM rate")]
    for entry in entries:
        show = _bytes if entry.name.endswith("memory") else _seconds
        rows.append(
            (
                entry.name,
                show(entry.baseline),
                show(entry.engine),
                _or_dash(entry.ratio, "{:.2f} x"),
                _or_dash(entry.max_abs_diff, "{:.1e}"),
                _or_dash(entry.gemm_fraction, "{:.0%}"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _seconds(value: float | None) -> str:
    return _or_dash(value, "{:.4g} s")


def _bytes(value: float | None) -> str:
    return _or_dash(value and value / 1e6, "{:.0f} MB")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
