"""Trainings on the stand-in CUDA device, in one process: ``python -m tests.fake_cuda.runs FOLDER [NAME ...]``.

Prints one JSON document: for each run the exit code, the last lines of its output if it failed, and whether the
language model passed its trial, so that it runs packed, attends without masks (by an emulated kernel) and computes the
last layer only where it is read.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fake_cuda import device

SMALL = ("use_cuda=True", "t_max=8", "batch_size_run=4", "test_interval=8", "test_nepisode=4", "seed=1")


def _line(algorithm: str, map_name: str, *settings: str) -> tuple[str, ...]:
    return f"--config={algorithm}", "--env-config=probe", "with", f"env_args.map_name={map_name}", *settings


ENTITY = "head.attack_keys=entity"
RUNS: dict[str, tuple[str, ...]] = {
    "entity keys": _line("lolm_mappo_tiny", "target", ENTITY, "minibatches=2", "save_model=True"),
    "frozen layers": _line("lolm_mappo_tiny", "duel", "lora.layers=1", "minibatches=2", "llm.recompute=True"),
    "float32": _line("lolm_mappo_tiny", "duel", "llm.dtype=float32", "llm.model=tiny-qwen3"),
    "full": _line("lolm_mappo_tiny", "duel", "llm.train=full", "llm.model=tiny-gemma3", "kl.enabled=False"),
    "words": _line("lolm_mappo_tiny", "duel", "head.features=normalised", "head.keys=words", "kl.head=initial"),
    "dt2gs": _line("dt2gs_mappo", "target", "minibatches=2"),
    "asn, recurrent": _line("asn_attention_mappo", "duel", "asn_attention.recurrent=True"),
    "rnn": _line("rnn_mappo", "duel"),
    "updet": _line("updet_mappo", "duel"),
    "resume": ("--resume", "", "with", "t_max=16"),
    "evaluate": _line("lolm_mappo_tiny", "target", ENTITY, "evaluate=True", "checkpoint_path="),
    "transfer": _line("lolm_mappo_tiny", "duel", ENTITY, "kl.reference=source", "transfer_from="),
}


def arguments(name: str, trained: Path) -> list[str]:
    """Return the command line of a run. Those that need a checkpoint get the folder of "entity keys"."""
    line = ["--epymarl=none", *RUNS[name]]
    if line[1] == "--resume":
        return [*line[:2], str(trained), *line[3:]]
    filled = [f"{word}{trained}" if word in ("checkpoint_path=", "transfer_from=") else word for word in line]
    return [*filled, *SMALL]


def main(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Install the device, train every run in its own folder and return what was found."""
    device.install()
    from lolm_plugin.commands import train
    from lolm_plugin.llm.model import Backbone

    backbones: list[Backbone] = []
    build = Backbone.__init__

    def remembered(self: Backbone, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        backbones.append(self)

    Backbone.__init__ = remembered  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    for name in names:
        backbones.clear()
        trained = next(iter((folder / "entity keys/results/models").glob("*")), folder)
        line = arguments(name, trained)
        here = folder / ("entity keys" if name == "resume" else name)
        here.mkdir(exist_ok=True)
        os.chdir(here)
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                code = train.main(["main.py", *line])
            except Exception:
                code = 1
                traceback.print_exc()
        found[name] = {"code": code, "output": text.getvalue()[-3000:] if code else ""}
        if backbones:
            # A model that fails its trial on the device runs slower, with only a warning.
            encoder = backbones[-1].encoder
            without_masks = encoder.settings.varlen or name == "float32"
            found[name]["fast"] = encoder.packed and encoder.settings.read_positions and without_masks
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:] or list(RUNS))))
