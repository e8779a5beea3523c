"""Names of the algorithms, for tests over all of them."""

from lolm_plugin.configuration import config_files
from lolm_plugin.paths import BUNDLED

HOST_DIR = BUNDLED / "config"


def controlled_by(mac):
    """Return the values of ``--config`` whose controller is ``mac``."""
    names = config_files.available("algs", HOST_DIR)
    return sorted(name for name in names if config_files.resolve(name, "probe", HOST_DIR).config.get("mac") == mac)


NETWORKS = controlled_by("network_mac")
