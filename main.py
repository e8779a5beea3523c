"""EPyMARL's command line with lolm_plugin; see ``python main.py --help``."""

import sys

from lolm_plugin.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
