"""JSON as the standard has it: without NaN and Infinity, which no reader but Python's takes."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(content: Any, **options: Any) -> str:
    """Dump as ``json.dumps`` does, with null for each number that is NaN or infinite."""
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        return json.dumps(finite(content), allow_nan=False, **options)


def finite(content: Any) -> Any:
    """Replace each number in ``content`` that is NaN or infinite by None."""
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {finite(key) if isinstance(key, float) else key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
