"""How long a run with a language model takes on this machine."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lolm_plugin import tuning
from lolm_plugin.doctor import estimate, machine, words
from lolm_plugin.doctor.language_model import Reading
from lolm_plugin.doctor.plan import Plan

ROWS = 4096  # of the matrix product that is timed, at most


class Seconds(NamedTuple):
    """Seconds to ``play`` and to ``learn``, and the ``rate`` in operations a second, as measured ``where``.

    ``busy``: other work took the cores. ``least``: a run takes longer, as its products are too small to count.
    """

    play: float
    learn: float
    rate: float
    where: str
    busy: bool
    least: bool


def seconds(config: Mapping[str, Any], run: Plan, reading: Reading, device: str) -> Seconds:
    """The whole run, tests included, at the rate of the model's own matrix products, which is measured here."""
    model, lengths = reading.model, reading.lengths
    threads = machine.threads(config["torch_threads"], "language models")
    shape = (min(reading.at_once, ROWS), model.layer.hidden, model.layer.inner)
    rate = machine.product_rate(shape, model.dtype, device, config["llm"]["product"], threads)
    # In the last layer all but keys and values runs for one token of a prompt, which is next to nothing.
    of_token = estimate.token_operations(
        model.linear - model.once,
        model.layers - (model.once > 0),
        model.layer.queries,
        lengths.prefix + lengths.mean / 2,
    )
    of_step = run.decisions * reading.decision * of_token
    play = (run.steps + run.test_steps) * of_step
    learn = run.steps * of_step * learning(config, run, reading).forwards()
    where = "the GPU" if device == "cuda" else words.several(threads, "thread")
    least, busy = model.layer.hidden < estimate.NARROW, device == "cpu" and tuning.busy()
    engine = rate * (1.0 if least else estimate.PRODUCTS)
    return Seconds(play / engine, learn / engine, rate, where, busy, least)


def learning(config: Mapping[str, Any], run: Plan, reading: Reading) -> estimate.Learning:
    """What the configuration asks of the language model in an update."""
    model, kl = reading.model, config["kl"]
    tokens = run.battles * run.length * run.decisions * reading.decision
    cache = config["llm"]["trunk_cache_gb"] * 2**30 / (model.layer.hidden * model.dtype.itemsize)
    return estimate.Learning(
        epochs=config["epochs"],
        minibatches=config["minibatches"],
        adapted=model.adapted_share,
        reference=min(1.0, kl["anneal_steps"] / max(1, config["t_max"])) if kl["enabled"] else 0.0,
        every_weight=not model.adapter,
        recompute=config["llm"]["recompute"],
        forgotten=max(0.0, 1 - cache / tokens),
        kept_from_play=config["llm"]["keep_rollout_states"],
    )
