"""The Transformer block of UPDeT and DT2GS."""

from torch import Tensor, nn

from lolm_plugin.modules.attention import Attention
from lolm_plugin.modules.initialisation import Gains, linear


class AttentionBlock(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + feed_forward(x)). No positions: the order of tokens means nothing."""

    def __init__(self, attention: Attention, width: int, ff_width: int, gains: Gains) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            linear(width, ff_width, gains.relu), nn.ReLU(), linear(ff_width, width, gains.plain)
        )
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(
        self,
        asking: Tensor,
        asked: Tensor,
        allowed: Tensor | None = None,
        embed: nn.Linear | None = None,
        kept: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [..., m, width] after a look at tokens [..., n, width], and where the first one looks [..., n].

        Of those asked, only the ``allowed`` bool [..., n] can be looked at; None: all. With ``embed``, both are given
        as what that layer makes tokens of. ``kept``, an index into [..., m], are the only tokens that go on after
        attention and are returned: [kept, width]; None: all.
        """
        if embed is None:
            seen, weights = self.attention(asking, asked, allowed)
        else:
            seen, weights = self.attention.over_raw(embed, asking, asked, allowed)
        if kept is not None:
            asking, seen = asking[kept], seen[kept]
        tokens = self.attention_norm((asking if embed is None else embed(asking)) + seen)
        return self.feed_forward_norm(tokens + self.feed_forward(tokens)), weights
