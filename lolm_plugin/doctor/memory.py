"""How many bytes a run keeps, as arithmetic on sizes that others count."""

from dataclasses import dataclass

FLOAT32 = 4  # bytes
ADAM = 4  # numbers for each that is trained: itself, its gradient and Adam's two means
QUANTISED = {"8bit": 1.0, "4bit": 0.53}  # bytes of a frozen weight; 4 bits come with scales, quantised in turn
PROGRAM = 0.6 * 2**30  # bytes that Python, PyTorch and transformers take themselves
# Bytes that oneDNN takes for compiled products, one for each of up to 1024 shapes, and that it keeps the C library from
# giving back in between. As seen with SmolLM2 after some updates: packs of prompts come in as many shapes.
ONEDNN = 1.5 * 2**30


@dataclass(frozen=True)
class Layer:
    """The widths of a decoder layer, in numbers a token.

    ``queries`` and ``keys``: heads times their width. ``inner``: the feed-forward layer. ``normed_heads``: queries and
    keys are normalised, as in Qwen3. ``adapted``: what the linear layers with an adapter read, added up, in attention
    and in the feed-forward layer.
    """

    hidden: int
    queries: int
    keys: int
    inner: int
    normed_heads: bool = False
    adapted: tuple[int, int] = (0, 0)


def frozen_bytes(linear: int, others: int, size: int, quantization: str = "none") -> float:
    """Of a model with ``linear`` weights in linear layers and ``others``, ``size`` bytes a number."""
    return linear * QUANTISED.get(quantization, size) + others * size


def trained_bytes(parameters: int, size: int = FLOAT32) -> int:
    """Of what is trained, with its gradient and the optimiser's state."""
    return ADAM * size * parameters


def attention_bytes(layer: Layer, size: int) -> int:
    """Bytes a token that the attention of a layer keeps until its backward pass, in numbers of ``size`` bytes."""
    # What autograd finds there: what the norm read, and what the linear layers did; queries, keys, values and what
    # attention made of them. Queries and keys before their own norms. Frozen weights need no more.
    normed = layer.hidden + (layer.queries + layer.keys) * layer.normed_heads
    between = 2 * layer.queries + 2 * layer.keys
    return _kept(normed, between, layer.hidden + layer.queries, layer.adapted[0], size)


def feed_forward_bytes(layer: Layer, size: int) -> int:
    """The same of its feed-forward layer: gate, its activation, up, and what norm and linear layers read."""
    return _kept(layer.hidden, 3 * layer.inner, layer.hidden + layer.inner, layer.adapted[1], size)


def keys_and_values_bytes(layer: Layer, size: int) -> int:
    """The same of a last layer that computes nothing else for all tokens."""
    # Keys and values are kept twice: as they come and in the order of heads.
    normed = layer.hidden + layer.keys * layer.normed_heads
    return _kept(normed, 4 * layer.keys, layer.hidden, 2 * layer.hidden if layer.adapted[0] else 0, size)


def _kept(normed: int, between: int, read: int, adapted: int, size: int) -> int:
    # Norms compute in float32 whatever they are given. LoRA's weights are float32, too: where the others are not, each
    # adapter keeps a copy of its own, and none of what its layer read otherwise.
    copies = adapted * FLOAT32 if adapted and size < FLOAT32 else read * size
    return normed * FLOAT32 + between * size + copies


def activation_bytes(layer: Layer, learning: int, tokens: int, size: int, recompute: bool, short_last: bool) -> int:
    """Of ``tokens`` read at once with gradient, the top ``learning`` layers of which learn; those below keep nothing.

    ``short_last``: all of the last layer but keys and values runs for one token of each prompt. With ``recompute`` all
    layers but the one at work keep their input alone.
    """
    attention = attention_bytes(layer, size)
    whole = attention + feed_forward_bytes(layer, size)
    below = (learning - 1) * (layer.hidden * size if recompute else whole)
    # Gradients on their way down are about as large as what attention keeps (seen with SmolLM2, to 2 %). Most is kept
    # when they set out, or, recomputed, wherever a whole layer is.
    last = keys_and_values_bytes(layer, size) if short_last else whole
    at_work = whole if recompute and learning > 1 else last
    return tokens * (below + at_work + (last if short_last and learning == 1 else attention))


def trunk_bytes(hidden: int, tokens: float, size: int, limit_gb: float) -> float:
    """Of what the layers below the adapter make of the ``tokens`` of a batch: at most ``limit_gb`` GiB."""
    return min(hidden * size * tokens, limit_gb * 2**30)


def battles_bytes(battles: int, steps: int, n_agents: int, n_actions: int, obs: int, state: int, rewards: int) -> int:
    """Of stored battles of ``steps`` environment steps, padding included; ``obs`` and ``state`` are widths."""
    # The host's fields: actions and `filled` int64, available actions int32, actions again one-hot, `terminated` uint8.
    agent = 4 * obs + 8 + 4 * n_actions + 4 * n_actions
    return battles * steps * (n_agents * agent + 4 * state + 4 * rewards + 1 + 8)
