"""How much a run plays, reads and multiplies, as arithmetic on what others count. Memory is in ``memory.py``.

A "forward pass" is one of the whole language model for one token. Where it says so, the formulas are those of
``docs/performance.md``.
"""

from dataclasses import dataclass

# Share of a language model's time that its matrix products take, seen with SmolLM2 on a CPU for playing and learning
# alike; softmax, norms and copies take the rest (``docs/performance.md``).
PRODUCTS = 0.6
NARROW = 256  # models of a smaller hidden width spend most of their time elsewhere


def typical_length(limit: int) -> int:
    """Environment steps of a battle that may last ``limit``: half of them, rounded up."""
    return -(-limit // 2)


def decisions_a_step(n_agents: int) -> float:
    """Agents that have a choice in an environment step: all at first and one at last, if they fall one by one."""
    return (n_agents + 1) / 2


def updates(t_max: int, battles: int, length: int) -> int:
    """Updates of a run, each after ``battles`` of ``length`` environment steps, begun until ``t_max`` is passed."""
    return t_max // (battles * length) + 1


def times_tested(n_updates: int, interval: int, steps: int) -> int:
    """Tests of a run with updates of ``steps`` each: at its start, every ``interval`` steps, and at its end."""
    return 1 + -(-n_updates // -(-interval // steps))


def token_operations(parameters: int, layers: int, queries: int, context: float) -> float:
    """Floating-point operations of a forward pass for one token.

    A multiplication and an addition for each of the ``parameters`` in linear layers, and in each of ``layers`` as many
    for each of the ``queries`` (heads times their width) with each of the ``context`` tokens before, twice: to compare
    and to add up.
    """
    return 2 * parameters + 4 * layers * queries * context


@dataclass(frozen=True)
class Learning:
    """What an update asks of a language model.

    ``adapted``: the share of a pass that lies in layers that learn, at the top (``lora.layers``). ``reference``: the
    share of updates that ask the frozen model, too, as the KL's weight is not 0. ``forgotten``: the share of tokens
    whose states below the adapter do not fit ``llm.trunk_cache_gb``. ``kept_from_play``: the others' were computed
    while playing.
    """

    epochs: int
    minibatches: int = 1
    adapted: float = 1.0
    reference: float = 1.0
    every_weight: bool = False
    recompute: bool = False
    forgotten: float = 0.0
    kept_from_play: bool = False

    def forwards(self) -> float:
        """The forward passes that one update costs for each token of its batch.

        1 + 2E with an adapter on all layers, as a backward pass without gradients of frozen weights costs as much as a
        forward pass; 1 + 2E·k/L with one on k of L layers.
        """
        # With several minibatches the policy's own log-probabilities are recorded before the first of them.
        passes = self.reference + (self.minibatches > 1) + self.epochs
        backward = self.epochs * (1 + self.every_weight + self.recompute)
        below = (1 - self.forgotten) * (not self.kept_from_play) + self.forgotten * passes
        return self.adapted * (passes + backward) + (1 - self.adapted) * below
