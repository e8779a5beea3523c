"""The attention action head (paper, section 4.4): the hidden state asks, action embeddings answer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.modules.heads.feature_normaliser import PLAYED, FeatureNormaliser
from lolm_plugin.observations.layout import N_BASE_ACTIONS

ATTACK_KEYS = ("shared", "entity")
FEATURES = ("normalised", "raw")
KEYS = ("random", "words")  # where action embeddings start


class AttentionActionHead(nn.Module):
    """Logits by dot product of a hidden state with ``n_base`` base-action embeddings and one attack embedding.

    The attack embedding is repeated once per target, so the same weights serve any number of enemies. As published
    (``shared``) every attack therefore has the same logit: the policy chooses to attack, not whom. With ``entity`` the
    key of a target is the attack embedding plus a projection of the hidden state at the end of the sentence about that
    target; the projection starts at zero, where both are the same policy.

    ``features``: ``raw`` is the published product. ``normalised`` centres and scales the hidden states by the frozen
    model's statistics and divides by the square root of their width: a reparametrisation of the published product with
    a bias, in which one optimiser step moves differences between states as much as their mean. Centred states have mean
    0, so their product with a target's sentence cannot prefer one kind of target in every state, such as the weakest.
    With entity keys ``target_bias`` adds a linear function of the sentence for that.
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
        assert attack_keys in ATTACK_KEYS, attack_keys
        assert features in FEATURES, features
        self.base = nn.Parameter(torch.randn(n_base, hidden_size) * init_std)
        self.attack = nn.Parameter(torch.randn(1, hidden_size) * init_std)
        self.target = nn.Parameter(torch.zeros(hidden_size, hidden_size)) if attack_keys == "entity" else None
        self.bias = self.target_bias = None
        if features == "normalised":
            self.bias = nn.Parameter(torch.zeros(n_base + 1))  # of the base actions and of attack
            self.normaliser = FeatureNormaliser(hidden_size)
            self.sentence_normaliser = FeatureNormaliser(hidden_size) if attack_keys == "entity" else None
            self.target_bias = nn.Parameter(torch.zeros(hidden_size)) if attack_keys == "entity" else None

    @property
    def needs_statistics(self) -> bool:
        """Tell whether ``measure`` has to be called before the first logits."""
        return self.bias is not None and not self.normaliser.measured

    @property
    def needs_played_statistics(self) -> bool:
        """Tell whether ``measure_played`` has something to do."""
        return self.bias is not None and self.normaliser.measured < PLAYED

    def measure(self, hidden: Tensor, sentences: Tensor) -> None:
        """Set the normalisers from the frozen model's states: hidden [rows, hidden], sentences [sentences, hidden]."""
        self.normaliser.measure(hidden)
        if self.sentence_normaliser is not None:
            self.sentence_normaliser.measure(sentences)

    @torch.no_grad()
    def measure_played(self, hidden: Tensor, sentences: Tensor, *copies: "AttentionActionHead") -> None:
        """Measure the statistics again on collected battles, before the first optimiser step. No logit changes.

        Made-up observations vary in everything that could be seen, so a real task's states differ less: scaled by
        made-up statistics, features of the probe retreat have a mean of norm 38 and deviations of norm 3, which makes
        the policy blind to the state. Embeddings and biases are rescaled with the features. A head whose target
        projection is already trained keeps its statistics, because the projection cannot be rescaled exactly.

        Args:
            hidden: the frozen model's last hidden states [rows, hidden].
            sentences: its states at the end of targets' sentences [sentences, hidden].
            copies: other heads that share this head's statistics and are rescaled too.
        """
        normaliser = self.normaliser
        if self.target is not None and (self.target.any() or self.target_bias.any()):
            normaliser.measured.fill_(PLAYED)
            return
        mean, deviation = normaliser.mean.clone(), normaliser.deviation.clone()
        normaliser.measure(hidden, PLAYED)
        if self.sentence_normaliser is not None:
            self.sentence_normaliser.measure(sentences, PLAYED)
        moved = (normaliser.mean - mean) / deviation / len(mean) ** 0.5
        for head in (self, *copies):
            head.bias += torch.cat([head.base, head.attack]) @ moved
            head.base *= normaliser.deviation / deviation
            head.attack *= normaliser.deviation / deviation

    @torch.no_grad()
    def start_from(self, words: Tensor, scale: float) -> None:
        """Set the action embeddings from the model's states of the actions' words.

        Args:
            words: [n_base + 1, hidden], of the base actions and of attack. Their mean says that they are actions, and
                is taken out.
            scale: root mean square of an embedding's numbers, and so about the deviation of a logit.
        """
        words = words - words.mean(0)
        words = words * (scale / words.square().mean().sqrt())
        self.base.copy_(words[:-1])
        self.attack.copy_(words[-1:])

    def share_statistics(self, other: "AttentionActionHead") -> None:
        """Use the normalisers of another head with the same features."""
        if self.bias is not None:
            self.normaliser, self.sentence_normaliser = other.normaliser, other.sentence_normaliser

    def forward(
        self, hidden: Tensor, n_targets: int, sentences: Tensor | None = None, place: Tensor | None = None
    ) -> Tensor:
        """Hidden states [rows, hidden] -> logits [rows, n_base + n_targets].

        ``place`` int64 [rows, n_targets] says which of the states ``sentences`` [sentences, hidden] is of the sentence
        about each target, -1 where there is none; ``shared`` looks at neither.
        """
        width = hidden.shape[1]
        if self.bias is not None:
            hidden = self.normaliser(hidden) / width**0.5
        scores = hidden @ torch.cat([self.base, self.attack]).T
        if self.bias is not None:
            scores = scores + self.bias
        # One column, copied: a product with repeated keys may round equal logits differently, depending on the number
        # of rows (measured: in 43 of 60 random heads with one row).
        attack = scores[:, -1:].expand(-1, n_targets)
        logits = torch.cat([scores[:, :-1], attack], dim=1)
        if self.target is None or sentences is None or place is None:
            return logits
        row, target = torch.nonzero(place >= 0, as_tuple=True)
        if self.bias is not None:
            sentences = self.sentence_normaliser(sentences)
        # Two large vectors meet in the projection: divided by their width, its steps are as large as an embedding's.
        projected = sentences @ self.target.T / width
        own = (hidden.index_select(0, row) * projected.index_select(0, place[row, target])).sum(-1)
        if self.target_bias is not None:
            own = own + (sentences @ self.target_bias / width**0.5).index_select(0, place[row, target])
        return logits.index_put((row, len(self.base) + target), own, accumulate=True)


def build_head(hidden_size: int, head: Mapping[str, Any], n_base: int = N_BASE_ACTIONS) -> AttentionActionHead:
    """Build the head that the configuration's section ``head`` describes; see ``AttentionActionHead``."""
    return AttentionActionHead(hidden_size, head["init_std"], head["attack_keys"], n_base, head["features"])
