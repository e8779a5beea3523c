"""The last token of the sentence about each target, for heads that choose among targets."""

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.controllers.prompter import build_writer
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.prompter import Prompter
from tests.prompts.terse_reader import lines_of

WAYS = pytest.mark.parametrize(
    "prompt",
    [
        {"style": style, "source": source, "dynamic": dynamic}
        for style in sorted(registry.PROMPT_STYLES)
        for source in ("written", "auto")
        for dynamic in (True, False)
    ],
    ids=lambda prompt: " ".join(map(str, prompt.values())),
)


def sentence(tokenizer, ids, end):
    """Return the line of a prompt that ends with the token ``end``."""
    return tokenizer.decode(ids[: end + 1]).rsplit("\n", 2)[-2]


def check(prompter, views, heals):
    """Check that every available target has the end of its sentence, or that there is no such sentence."""
    obs, mask, agents = views
    layout = prompter.layout
    rows = prompter.tokens(obs, mask, agents, targets=True)
    texts = ["".join(parts.values()) for parts in prompter.writer.describe(obs, mask, agents)]
    found = 0
    for row, (ids, text, ends) in enumerate(zip(rows.lists(), texts, rows.targets.tolist(), strict=True)):
        side = "ally" if heals[row] else "enemy"
        for target, end in enumerate(ends):
            named = lines_of(text, side).get(target)
            if not mask[row, layout.n_base_actions + target] or not named:
                assert end == -1, (text, target)
                continue
            assert prompter.tokenizer.decode(ids[: end + 1]).endswith("\n")
            assert sentence(prompter.tokenizer, ids, end) == named
            found += 1
    assert found > 10


@WAYS
def test_a_target_is_the_end_of_its_sentence(prompt, layouts, random_views, tiny_tokenizer):
    layout = layouts.observation
    prompter = Prompter(build_writer(prompt, layout), tiny_tokenizer)
    views = (*random_views(layout, 40, seed=3), torch.arange(40) % layout.n_agents)
    check(prompter, views, layout.decode(views[0]).heals)


@pytest.mark.parametrize("source", ["written", "auto"])
def test_a_healers_targets_are_the_sentences_about_its_allies(source, random_views, tiny_tokenizer):
    layout = build_layouts("sc2", {"map_name": "MMM2"}, 10, 18).observation
    prompter = Prompter(build_writer({"style": "compact", "source": source, "dynamic": True}, layout), tiny_tokenizer)
    obs, mask = random_views(layout, 60, seed=4)
    heals = layout.decode(obs).heals
    assert 5 < heals.sum() < 55
    rows = prompter.tokens(obs, mask, torch.full((60,), 2), targets=True)
    for row in heals.nonzero().flatten().tolist():
        ids, ends = rows.lists()[row], rows.targets[row]
        assert ends[2] == -1  # itself
        lines = [sentence(tiny_tokenizer, ids, end) for end in ends if end >= 0]
        assert lines
        assert all(line.startswith("ally ") for line in lines)


class OpaqueTokenizer:
    """A tokenizer that does not show how it splits texts."""

    bos_token_id = None

    def __init__(self, tokenizer, is_fast=True):
        self.inner, self.is_fast = tokenizer, is_fast
        self.decode = tokenizer.decode

    def __call__(self, *texts, **options):
        return self.inner(*texts, **options)


def test_texts_that_are_tokenised_whole_have_the_same_ends(layouts, random_views, tiny_tokenizer):
    layout = layouts.observation
    writer = build_writer({"style": "paper", "source": None, "dynamic": True}, layout)
    whole = Prompter(writer, OpaqueTokenizer(tiny_tokenizer))
    assert not whole.assembles
    views = (*random_views(layout, 20, seed=5), torch.arange(20) % layout.n_agents)
    apart = Prompter(writer, tiny_tokenizer).tokens(*views, targets=True)
    together = whole.tokens(*views, targets=True)
    assert together.lists() == apart.lists()
    assert (together.targets == apart.targets).all()
    assert (apart.targets >= 0).any()


def test_a_tokenizer_without_token_positions_is_refused(layouts, random_views, tiny_tokenizer):
    layout = layouts.observation
    writer = build_writer({"style": "paper", "source": None, "dynamic": True}, layout)
    prompter = Prompter(writer, OpaqueTokenizer(tiny_tokenizer, is_fast=False))
    views = (*random_views(layout, 5, seed=5), torch.zeros(5, dtype=torch.int64))
    prompter.tokens(*views)
    with pytest.raises(ConfigError, match=r"head\.attack_keys=entity .* set head\.attack_keys=shared"):
        prompter.tokens(*views, targets=True)


def test_equal_prompts_about_other_targets_are_not_the_same(layouts, random_views, tiny_tokenizer):
    layout = layouts.observation
    prompter = Prompter(build_writer({"style": "paper", "source": None, "dynamic": True}, layout), tiny_tokenizer)
    obs, mask = random_views(layout, 1, seed=5)
    rows = prompter.tokens(obs.expand(3, -1), mask.expand(3, -1), torch.zeros(3, dtype=torch.int64), targets=True)
    assert len(rows.distinct()[0]) == 1
    rows.targets[2] += 1
    distinct, index = rows.distinct()
    assert (len(distinct), index.tolist()) == (2, [0, 0, 1])
