"""Numbers in words that are short enough to compare."""


def count(number: int) -> str:
    """``596 million`` or ``12,345``."""
    if number < 1e6:
        return f"{number:,}"
    return f"{number / 1e6:.3g} million" if number < 1e9 else f"{number / 1e9:.3g} billion"


def memory(size: float) -> str:
    """Bytes as ``1.2 GiB`` or ``34 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.{0 if size >= 2**20 else 2}f} MiB"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``, ``5.0 days`` or ``2.5 years``."""
    for unit, name, digits in ((31557600, "years", 1), (86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def several(number: int, thing: str, things: str = "") -> str:
    """``1 enemy`` or ``3 enemies``."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
