"""``lolm`` and ``python -m lolm_plugin``."""

import sys

from lolm_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
