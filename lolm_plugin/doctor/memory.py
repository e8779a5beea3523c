"""How many bytes a run keeps, as arithmetic on sizes that others count."""

from dataclasses import dataclass

FLOAT32 = 4  # bytes
ADAM = 4  # numbers for each that is trained: itself, its gradient and Adam's two means
QUANTISED = {"8bit": 1.0, "4bit": 0.53}  # bytes of a frozen weight; 4 bits come with scales, quantised in turn
PROGRAM = 0.6 * 2**30  # bytes that Python, PyTorch and transformers take themselves


@dataclass(frozen=True)
class Layer:
    """The widths of a decoder layer, in numbers a token.

    ``queries`` and ``keys``: heads times their width. ``inner``: the feed-forward layer. ``adapter_inputs``: what all
    linear layers with an adapter read, added up. ``normed_heads``: queries and keys are normalised, as in Qwen3.
    """

    hidden: int
    queries: int
    keys: int
    inner: int
    adapter_inputs: int
    normed_heads: bool = False


def frozen_bytes(linear: int, others: int, size: int, quantization: str = "none") -> float:
    """Of a model with ``linear`` weights in linear layers and ``others``, ``size`` bytes a number."""
    return linear * QUANTISED.get(quantization, size) + others * size


def trained_bytes(parameters: int, size: int = FLOAT32) -> int:
    """Of what is trained, with its gradient and the optimiser's state."""
    return ADAM * size * parameters


def layer_bytes(layer: Layer, size: int) -> int:
    """Bytes a token that a layer keeps until its backward pass, in numbers of ``size`` bytes."""
    # What autograd finds there: input and result of two norms (4 hidden); queries, what attention makes of them and
    # that once more in the order in which the output layer reads it (3 queries); keys and values (2 keys); gate, its
    # activation, up and the product of both (4 inner); queries and keys before their norms. Frozen weights need no
    # more, and LoRA's down-projections read what is there already.
    numbers = 4 * layer.hidden + 3 * layer.queries + 2 * layer.keys + 4 * layer.inner
    normed = 2 * layer.hidden
    if layer.normed_heads:
        numbers += layer.queries + layer.keys
        normed += layer.queries + layer.keys
    # Norms compute in float32 whatever they are given, and LoRA's weights, which are float32, ask for copies in it.
    wider = normed * (FLOAT32 - size) + layer.adapter_inputs * FLOAT32 if size < FLOAT32 else 0
    return numbers * size + wider


def activation_bytes(layer: Layer, adapted: int, tokens: int, size: int, recompute: bool) -> int:
    """Of ``tokens`` read at once with gradient, ``adapted`` layers of which learn.

    Layers below the adapter keep nothing. One layer more is for the gradients on their way down. With ``recompute``
    all layers but the one at work keep their input alone.
    """
    whole = layer_bytes(layer, size)
    each = layer.hidden * size if recompute else whole
    return tokens * ((adapted - 1) * each + 2 * whole)


def trunk_bytes(hidden: int, tokens: float, size: int, limit_gb: float) -> float:
    """Of what the layers below the adapter make of the ``tokens`` of a batch: at most ``limit_gb`` GiB."""
    return min(hidden * size * tokens, limit_gb * 2**30)


def battles_bytes(battles: int, steps: int, n_agents: int, n_actions: int, obs: int, state: int, rewards: int) -> int:
    """Of stored battles of ``steps`` environment steps, padding included; ``obs`` and ``state`` are widths."""
    # The host's fields: actions and `filled` int64, available actions int32, actions again one-hot, `terminated` uint8.
    agent = 4 * obs + 8 + 4 * n_actions + 4 * n_actions
    return battles * steps * (n_agents * agent + 4 * state + 4 * rewards + 1 + 8)
