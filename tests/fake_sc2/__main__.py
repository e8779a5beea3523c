"""Entry point by path: ``python tests/fake_sc2 -listen 127.0.0.1 -port N``, from any working directory."""

import sys
from pathlib import Path

# Python puts this folder first in sys.path. Its modules import each other as a package, which needs the parent folder.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from fake_sc2.server import main  # noqa: E402

main()
