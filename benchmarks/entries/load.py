"""``load``: a model and its tokenizer from a folder on disk into memory, in float32.

The plain port calls Hugging Face's ``AutoModelForCausalLM`` on the folder that the engine reads. Models made on the
spot are written to a folder first. The first conversion of smollm2-135m, which happens once, is not timed.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.bench import Bench
from benchmarks.compare import farthest
from benchmarks.entry import Entry
from benchmarks.timing import alternate
from lolm_plugin.llm import sources


def measure(bench: Bench) -> list[Entry]:
    """Seconds, with the files in the system's cache: one load of each goes before."""
    with tempfile.TemporaryDirectory(prefix="lolm-benchmark-") as scratch:
        folder, num_layers = _folder(bench.setting.model, Path(scratch)), bench.setting.num_layers
        source = sources.resolve(str(folder))

        def engine() -> torch.nn.Module:
            source.load_tokenizer()
            return source.load_model(num_layers, torch.float32, True, 0)

        def plain() -> torch.nn.Module:
            AutoTokenizer.from_pretrained(folder)
            keep = {} if num_layers is None else {"num_hidden_layers": num_layers}
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **keep)

        ours, theirs = engine().state_dict(), plain().base_model.state_dict()
        difference = max(farthest(ours[name], theirs[name]) for name in ours)
        seconds = alternate({"baseline": plain, "engine": engine}, max(3, bench.setting.repeats))
    return [Entry("load", **seconds, max_abs_diff=difference)]


def _folder(model: str, scratch: Path) -> Path:
    source = sources.resolve(model)
    if not isinstance(source, sources.TinySource):
        return source.folder(weights=True)
    AutoModelForCausalLM.from_config(source.load_config()).save_pretrained(scratch)
    source.load_tokenizer().save_pretrained(scratch)
    return scratch
