"""Small training process that tests end: ``parent.py FAULTS FOLDER`` builds two battles and resets them."""

import json
import signal
import sys
from argparse import Namespace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from battles import Battle

    from lolm_plugin.host import open_host, register

    faults, folder = json.loads(sys.argv[1]), sys.argv[2]
    host = open_host(None)
    register(host)
    host.registries["env"]["battle"] = Battle
    env_args = {"map_name": "field", "seed": 0, "folder": folder, "faults": faults}
    args = {"env": "battle", "env_args": env_args, "batch_size_run": 2}
    args |= {"common_reward": True, "reward_scalarisation": "sum"}
    runner = host.registries["runner"]["supervised_parallel"](args=Namespace(**args), logger=None)
    print("built", flush=True)
    if "error" in faults:
        raise ZeroDivisionError
    runner.ask("reset", {0: None, 1: None})
    signal.pause()
