"""``lolm`` and ``python -m lolm_plugin``."""

import sys

from lolm_plugin.commands.lolm import main

if __name__ == "__main__":
    sys.exit(main())
