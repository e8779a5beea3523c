"""Run by path, ``python tests/fake_sc2 -listen 127.0.0.1 -port N``, from wherever the repository is."""

import sys
from pathlib import Path

# Python has put this folder first, but its modules know each other as a package, which is found one up.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from fake_sc2.server import main  # noqa: E402

main()
