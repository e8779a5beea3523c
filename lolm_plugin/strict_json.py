"""Standard JSON: without NaN and Infinity, which most readers reject."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(content: Any, **options: Any) -> str:
    """Serialise like ``json.dumps``, with null for each NaN or infinite number."""
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        return json.dumps(finite(content), allow_nan=False, **options)


def finite(content: Any) -> Any:
    """Replace each NaN or infinite number in ``content`` by None."""
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {finite(key) if isinstance(key, float) else key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
