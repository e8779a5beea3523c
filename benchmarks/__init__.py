"""Speed and memory of the engine, compared with a plain port of the same method: ``python -m benchmarks --help``."""
