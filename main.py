"""The command line of EPyMARL with lolm_plugin in it; ``python main.py --help`` explains."""

import sys

from lolm_plugin.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
