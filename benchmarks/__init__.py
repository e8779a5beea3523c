"""How fast the engine is next to a plain port of the same method: ``python -m benchmarks --help``."""
