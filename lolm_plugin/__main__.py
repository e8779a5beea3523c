"""Entry point of ``python -m lolm_plugin``, the same as ``lolm``."""

import sys

from lolm_plugin.commands.lolm import main

if __name__ == "__main__":
    sys.exit(main())
