"""Action heads: from a network's features to logits, and from logits to log-probabilities of available actions."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.modules.layers import linear
from lolm_plugin.observations.layout import N_BASE_ACTIONS

# Smallest deviation that is scaled up to 1, as a share of the median deviation. Smaller: dimensions of rounding noise
# become features. Larger: dimensions with information are damped.
FLOOR = 1e-2
SAMPLED, COLLECTED = 1, 2  # source of the statistics: made-up observations, or collected battles


def masked_log_softmax(logits: Tensor, available: Tensor) -> Tensor:
    """Compute log-probabilities [..., actions] over the available actions; -inf for the others.

    ``available`` is bool [..., actions] with at least one available action for each policy.
    """
    return logits.masked_fill(~available, -torch.inf).log_softmax(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Compute the entropy [...] in nats of log-probabilities [..., actions]; unavailable actions (-inf) add nothing."""
    return -(log_probs.exp() * _without_infinity(log_probs)).sum(-1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute KL(p || q) [...] in nats, p and q over the same available actions (paper, equation 8)."""
    return (log_p.exp() * (_without_infinity(log_p) - _without_infinity(log_q))).sum(-1)


def _without_infinity(log_probs: Tensor) -> Tensor:
    # 0 * -inf is NaN, also in the backward pass, so unavailable actions become 0 * 0.
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)


class FeatureNormaliser(nn.Module):
    """Standardisation of hidden states per dimension: (state - mean) / deviation, with the frozen model's statistics.

    All prompts of a task end with the same words, so their last hidden states are almost one constant vector. For
    SmolLM2's first 4 layers on 3m, the state-dependent share is 2 to 4 % of the norm. A head on raw states first learns
    from the constant vector, that is, the best policy that ignores the state. It learns anything else much later.

    ``measured`` is 0 before any measurement (states pass unchanged), then ``SAMPLED`` or ``COLLECTED``. Statistics are
    saved with the head.
    """

    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("measured", torch.zeros((), dtype=torch.uint8))

    @torch.no_grad()
    def measure(self, states: Tensor, source: int = SAMPLED) -> None:
        """Set mean and deviation from the frozen model's states [states, width]. Fewer than two states set neither."""
        self.measured.fill_(source)
        if len(states) < 2:
            return
        deviation, mean = torch.std_mean(states.double(), dim=0)
        floor = FLOOR * deviation.median()
        if floor > 0:
            self.mean.copy_(mean)
            self.deviation.copy_(deviation.clamp(min=floor))

    def forward(self, states: Tensor) -> Tensor:
        """Map states [..., width] to features with mean 0 and deviation 1 over the measured states."""
        return (states - self.mean) / self.deviation


class AttentionActionHead(nn.Module):
    """Action head of language-model policies: dot products of a hidden state with action embeddings (paper, 4.4).

    There are ``n_base`` base-action embeddings and one attack embedding. The attack embedding is repeated for each
    target, so the same weights serve any number of enemies.

    Args:
        hidden_size: width of a hidden state.
        init_std: standard deviation of the initial embeddings.
        attack_keys: ``shared``, as published: all attacks have the same logit. The policy decides to attack, but not
            whom. ``entity``: a target's key is the attack embedding plus a projection of the hidden state at the end of
            the sentence about this target. The projection starts at zero, so both start as the same policy.
        n_base: number of base actions.
        features: ``raw``: the published product. ``normalised``: hidden states are centred and scaled (see
            ``FeatureNormaliser``) and divided by the square root of their width. This is the published product with a
            bias, in another parametrisation: one optimiser step moves differences between states as much as their mean.
            Centred states have mean 0, so their product with a target's sentence cannot prefer one kind of target in
            every state, such as the weakest. For entity keys ``target_bias`` adds a linear function of the sentence.
    """

    def __init__(
        self,
        hidden_size: int,
        init_std: float,
        attack_keys: str = "shared",
        n_base: int = N_BASE_ACTIONS,
        features: str = "raw",
    ) -> None:
        super().__init__()
        entity, normalised = attack_keys == "entity", features == "normalised"
        self.base = nn.Parameter(torch.randn(n_base, hidden_size) * init_std)
        self.attack = nn.Parameter(torch.randn(1, hidden_size) * init_std)
        self.target = nn.Parameter(torch.zeros(hidden_size, hidden_size)) if entity else None
        self.bias = nn.Parameter(torch.zeros(n_base + 1)) if normalised else None  # of the base actions and of attack
        self.normaliser = FeatureNormaliser(hidden_size) if normalised else None
        self.sentence_normaliser = FeatureNormaliser(hidden_size) if normalised and entity else None
        self.target_bias = nn.Parameter(torch.zeros(hidden_size)) if normalised and entity else None

    @property
    def needs_statistics(self) -> bool:
        """Return True if ``measure`` must be called before the first logits."""
        return self.normaliser is not None and not self.normaliser.measured

    @property
    def needs_collected_statistics(self) -> bool:
        """Return True if ``measure_collected`` still has to be called."""
        return self.normaliser is not None and bool(self.normaliser.measured < COLLECTED)

    def measure(self, hidden: Tensor, sentences: Tensor, source: int = SAMPLED) -> None:
        """Set the normalisers from the frozen model's states: hidden [states, width], sentences [sentences, width]."""
        assert self.normaliser is not None, "features=raw has no statistics"
        self.normaliser.measure(hidden, source)
        if self.sentence_normaliser is not None:
            self.sentence_normaliser.measure(sentences, source)

    @torch.no_grad()
    def measure_collected(self, hidden: Tensor, sentences: Tensor, *copies: "AttentionActionHead") -> None:
        """Measure the statistics again on collected battles, before the first optimiser step. No logit changes.

        Made-up observations vary in all their fields, those of a real task in fewer. With the made-up statistics,
        features of the probe retreat have a mean of norm 38 and deviations of norm 3: the policy hardly sees the state.
        Embeddings and biases are rescaled with the features. A head whose target projection is already trained keeps
        its statistics, because the projection cannot be rescaled exactly.

        Args:
            hidden: the frozen model's last hidden states [states, hidden].
            sentences: its states at the end of targets' sentences [sentences, hidden].
            copies: other heads that share this head's statistics and are rescaled too.
        """
        normaliser = self.normaliser
        assert normaliser is not None, "features=raw has no statistics"
        if self.target is not None and self.target_bias is not None and (self.target.any() or self.target_bias.any()):
            normaliser.measured.fill_(COLLECTED)
            return
        mean, deviation = normaliser.mean.clone(), normaliser.deviation.clone()
        self.measure(hidden, sentences, COLLECTED)
        moved = (normaliser.mean - mean) / deviation / len(mean) ** 0.5
        for head in (self, *copies):
            assert head.bias is not None
            head.bias.add_(torch.cat([head.base, head.attack]) @ moved)
            head.base.mul_(normaliser.deviation / deviation)
            head.attack.mul_(normaliser.deviation / deviation)

    @torch.no_grad()
    def start_from(self, words: Tensor, scale: float) -> None:
        """Set the action embeddings from the model's states of the actions' words.

        Args:
            words: states of the words [n_base + 1, hidden]: base actions, then attack. Their mean is common to all
                actions, so it is subtracted.
            scale: root mean square of an embedding's numbers. It is about the deviation of a logit.
        """
        words = words - words.mean(0)
        words = words * (scale / words.square().mean().sqrt())
        self.base.copy_(words[:-1])
        self.attack.copy_(words[-1:])

    def share_statistics(self, other: "AttentionActionHead") -> None:
        """Use the normalisers of another head with the same features."""
        self.normaliser, self.sentence_normaliser = other.normaliser, other.sentence_normaliser

    def forward(
        self, hidden: Tensor, n_targets: int, sentences: Tensor | None = None, sentence_of: Tensor | None = None
    ) -> Tensor:
        """Compute the logits of prompts.

        Args:
            hidden: [prompts, hidden], state of each prompt's last token.
            n_targets: number of target actions.
            sentences: [sentences, hidden], states at the end of targets' sentences. Not used with shared keys.
            sentence_of: int64 [prompts, n_targets], index of each target's sentence; -1: none.

        Returns:
            Logits [prompts, n_base + n_targets]; unavailable actions are not masked.
        """
        width = hidden.shape[1]
        if self.normaliser is not None:
            hidden = self.normaliser(hidden) / width**0.5
        scores = hidden @ torch.cat([self.base, self.attack]).T
        if self.bias is not None:
            scores = scores + self.bias
        # Compute one column and copy it. A product with repeated keys may round equal logits differently, depending on
        # the number of prompts (measured: in 43 of 60 random heads with one prompt).
        attack = scores[:, -1:].expand(-1, n_targets)
        logits = torch.cat([scores[:, :-1], attack], dim=1)
        if self.target is None or sentences is None or sentence_of is None:
            return logits
        prompt, target = torch.nonzero(sentence_of >= 0, as_tuple=True)
        sentence = sentence_of[prompt, target]
        if self.sentence_normaliser is not None:
            sentences = self.sentence_normaliser(sentences)
        # The projection multiplies two large vectors. Divided by the width, its steps are as large as an embedding's.
        projected = sentences @ self.target.T / width
        scores = (hidden.index_select(0, prompt) * projected.index_select(0, sentence)).sum(-1)
        if self.target_bias is not None:
            scores = scores + (sentences @ self.target_bias / width**0.5).index_select(0, sentence)
        return logits.index_put((prompt, len(self.base) + target), scores, accumulate=True)


def build_head(hidden_size: int, head: Mapping[str, Any], n_base: int = N_BASE_ACTIONS) -> AttentionActionHead:
    """Build the head of a language-model policy from the config section ``head``.

    To try another head, return it here. It needs the methods and properties of ``AttentionActionHead``.

    Args:
        hidden_size: width of a hidden state.
        head: config section ``head``: ``init_std``, ``attack_keys``, ``features`` and more.
        n_base: number of base actions.

    Returns:
        The untrained head.
    """
    return AttentionActionHead(hidden_size, head["init_std"], head["attack_keys"], n_base, head["features"])


class MeanActionHead(nn.Module):
    """UPDeT's action head: one linear layer for the agent's own token and its targets' tokens.

    Its six outputs for the own token are the logits of the base actions. The mean of its outputs for a target's token
    is the logit of the target action. No size depends on the number of targets.

    Another head of an entity network subclasses this one, and the trunk returns it from ``make_head``. Here a target's
    logit is a bilinear form of the own features and those of the target::

        class BilinearActionHead(MeanActionHead):
            def __init__(self, width, gain):
                super().__init__(width, gain)
                self.match = linear(width, width, gain)

            def target_logits(self, own, targets):
                return (targets @ self.match(own).unsqueeze(-1)).squeeze(-1)


        class BilinearUPDeT(UPDeT):
            def make_head(self):
                return BilinearActionHead(self.width, self.gains.head)

    Args:
        width: width of the features.
        gain: gain of the linear layer's orthogonal initial weights.
    """

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.actions = linear(width, N_BASE_ACTIONS, gain)

    def forward(self, own: Tensor, targets: Tensor, target_tokens: Tensor) -> Tensor:
        """Compute the logits of all actions.

        Args:
            own: features of the agent [..., width].
            targets: features of its targets [..., n_targets, width].
            target_tokens: int64 [..., n_targets], index of each target's token; -1: none. The logit is then 0.

        Returns:
            Logits [..., 6 + n_targets]; unavailable actions are not masked.
        """
        target_logits = self.target_logits(own, targets).masked_fill(target_tokens < 0, 0.0)
        return torch.cat([self.actions(own), target_logits], dim=-1)

    def target_logits(self, own: Tensor, targets: Tensor) -> Tensor:
        """Compute the logits of the target actions; override it for another head.

        Args:
            own: features of the agent [..., width].
            targets: features of its targets [..., n_targets, width].

        Returns:
            Logits [..., n_targets].
        """
        # The mean of six linear outputs is one linear output with the mean weight.
        return targets @ self.actions.weight.mean(0) + self.actions.bias.mean()


class InnerActionHead(MeanActionHead):
    """Action head of the original ASN: a target action's logit is the inner product <own, target> / sqrt(width)."""

    def target_logits(self, own: Tensor, targets: Tensor) -> Tensor:
        return (targets @ own.unsqueeze(-1)).squeeze(-1) / math.sqrt(own.shape[-1])
