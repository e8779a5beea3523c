"""Trainings on the stand-in CUDA device, in one process: ``python -m tests.fake_cuda.runs FOLDER [NAME ...]``.

Prints one JSON document: for each run the exit code, the last lines of its output if it failed, and whether the
language model passed its trial, so that it runs packed, attends without masks (by an emulated kernel) and computes the
last layer only where it is read.
"""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lolm_plugin.paths import locate
from tests.fake_cuda import device

SMALL = ("use_cuda=True", "t_max=8", "batch_size_run=4", "test_interval=8", "test_nepisode=4", "seed=1")


def _line(algorithm: str, map_name: str, *settings: str) -> tuple[str, ...]:
    return f"--config={algorithm}", "--env-config=probe", "with", f"env_args.map_name={map_name}", *settings


LAYOUTS = "layouts"  # not a training
ENTITY = "head.attack_keys=entity"
RUNS: dict[str, tuple[str, ...]] = {
    "entity keys": _line("lolm_mappo_tiny", "target", ENTITY, "minibatches=2", "save_model=True"),
    "frozen layers": _line("lolm_mappo_tiny", "duel", "lora.layers=1", "llm.recompute=True", "llm.token_budget=None"),
    "float32": _line(
        "lolm_mappo_tiny", "duel", "llm.dtype=float32", "llm.model=tiny-qwen3", "llm.read_positions=False"
    ),
    "full": _line("lolm_mappo_tiny", "duel", "llm.train=full", "llm.model=tiny-gemma3", "kl.enabled=False"),
    "words": _line("lolm_mappo_tiny", "duel", "head.features=normalised", "head.keys=words", "kl.head=initial"),
    "mean state": _line("lolm_mappo_tiny", "duel", "lora.layers=1", "head.read=mean", "prompt.source=auto"),
    "quantised": _line("lolm_mappo_tiny", "duel", "epochs=1"),
    "padded": _line("lolm_mappo_tiny", "duel", "epochs=1"),
    "dt2gs": _line("dt2gs_mappo", "target", "minibatches=2"),
    "asn, recurrent": _line("asn_attention_mappo", "duel", "asn_attention.recurrent=True"),
    "rnn": _line("rnn_mappo", "duel", "save_model=True"),
    "updet": _line("updet_mappo", "duel", "runner=supervised_parallel", "test_sampled=True", "decisions_file=d.jsonl"),
    "imitate": ("--teacher=heuristic", *_line("updet_mappo", "duel", "buffer_cpu_only=True", "imitate.rounds=2")),
    "imitate rnn": ("--teacher=", *_line("updet_mappo", "duel")),
    "resume": ("--resume", "", "with", "t_max=16"),
    "evaluate": _line("lolm_mappo_tiny", "target", ENTITY, "evaluate=True", "checkpoint_path="),
    "transfer": _line("lolm_mappo_tiny", "duel", ENTITY, "kl.reference=source", "transfer_from="),
    "EPyMARL": _line("lolm_mappo_tiny", "target", "epochs=1"),
    "EPyMARL, rnn": _line("rnn_mappo", "duel", "save_model=True", "obs_last_action=True", "obs_agent_id=True"),
}
FURTHER = {
    "updet": ("batch_size_run=1",),  # processes of environments
    "imitate": ("imitate.battles=8", "imitate.held_out=4", "imitate.epochs=1", "imitate.minibatch=8"),
}


def arguments(name: str, folder: Path) -> list[str]:
    """Return the command line of a run. Those that need a checkpoint get the one of "entity keys" or "rnn"."""
    host = locate(None) if name.startswith("EPyMARL") else None
    source = "rnn" if name == "imitate rnn" else "entity keys"
    trained = str(next(iter((folder / source / "results/models").glob("*")), folder))
    line = [f"--epymarl={host or 'none'}", *RUNS[name]]
    if line[1] == "--resume":
        return [*line[:2], trained, *line[3:]]
    given = ("checkpoint_path=", "transfer_from=", "--teacher=")
    filled = [f"{word}{trained}" if word in given else word for word in line]
    return [*filled, *SMALL, *FURTHER.get(name.split()[0], ())]


@contextlib.contextmanager
def special(name: str) -> Iterator[None]:
    """Replace what cannot run here: bitsandbytes, an architecture that runs padded, and a small GPU."""
    from lolm_plugin.llm import sources, trial

    load, obstacle = sources.TinySource.load_model, trial.obstacle
    if name == "quantised":  # a quantised model is loaded onto the GPU; others move there after their first trial
        sources.TinySource.load_model = lambda self, *args, **kwargs: load(self, *args, **kwargs).to("cuda")  # type: ignore[method-assign]
    device.free_memory = (24 if name == "frozen layers" else 70 * 1024) * 2**20
    if name == "padded":
        trial.obstacle = lambda model: "it is tested padded"
    try:
        yield
    finally:
        sources.TinySource.load_model, trial.obstacle = load, obstacle  # type: ignore[method-assign]


def launches_per_layer(backbone: Any) -> dict[str, float]:
    """Count the kernels of one layer for one group of prompts: in its forward pass with gradient, and backward."""
    from lolm_plugin.llm.encoder import decoder_layers

    counts: list[int] = []
    started: list[int] = []
    layers = decoder_layers(backbone.encoder._model)
    hooks = [layers[0].register_forward_pre_hook(lambda *args: started.append(device.launches.total()))]
    hooks.append(layers[0].register_forward_hook(lambda *args: counts.append(device.launches.total() - started[-1])))
    states = backbone.encode(backbone.prompt_batch([3] * 5, [[token] * 40 for token in range(8)]))
    before = device.launches.total()
    states.sum().backward()
    for hook in hooks:
        hook.remove()
    return {"forward": counts[-1], "backward": (device.launches.total() - before) / len(layers)}


def main(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Install the device, decode every layout if asked to, train each run in its folder, and return what was found."""
    device.install()
    from lolm_plugin.commands import imitate, train
    from lolm_plugin.llm.model import Backbone
    from tests.fake_cuda import layouts

    backbones: list[Backbone] = []
    tried: list[bool] = []  # whether the model's trial ran on the GPU
    build = Backbone.__init__

    def remembered(self: Backbone, *args: Any, **kwargs: Any) -> None:
        before = device.launches.total()
        build(self, *args, **kwargs)
        backbones.append(self)
        tried.append(device.launches.total() > before)

    Backbone.__init__ = remembered  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    for name in names:
        if name == LAYOUTS:
            layouts.decode_all()
            continue
        backbones.clear()
        line = arguments(name, folder)
        here = folder / ("entity keys" if name == "resume" else name)
        here.mkdir(exist_ok=True)
        os.chdir(here)
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), special(name):
            try:
                code = imitate.main(line) if name.startswith("imitate") else train.main(["main.py", *line])
            except Exception:
                code = 1
                traceback.print_exc()
        found[name] = {"code": code, "output": text.getvalue()[-3000:] if code else ""}
        if backbones:
            # A model that fails its trial on the device runs slower, with only a warning.
            encoder = backbones[-1].encoder
            found[name]["packed"] = encoder.packed
            found[name]["without_masks"] = encoder.settings.varlen
            found[name]["tried"] = tried[-1]
            norms = [m for m in backbones[-1].lm.modules() if type(m).__name__.endswith("RMSNorm")]
            found[name]["fused_norms"] = sum("forward" in vars(norm) for norm in norms)
            found[name]["read_positions"] = encoder.settings.read_positions
            found[name]["budget"] = re.findall(r"llm.token_budget=(\d+): ", text.getvalue())
            if name == "entity keys":
                found[name]["launches"] = launches_per_layer(backbones[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:] or list(RUNS))))
