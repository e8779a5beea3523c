"""Several environments that take their steps together: the loop of EPyMARL's parallel runner.

Where the environments live, and what happens to one that fails, is a matter of subclasses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lolm_plugin.runners.runner import Runner


@dataclass
class Episode:
    """What is known of an episode beside its row of the batch."""

    total: float | np.ndarray  # undiscounted return; float [n_agents] with common_reward=False
    length: int = 0
    over: bool = False
    info: Mapping[str, float] = field(default_factory=dict)  # of its last step


class LockstepRunner(Runner):
    """``batch_size_run`` environments, each of which plays one episode of a batch."""

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Has each environment ``i`` of ``data`` execute ``command`` with ``data[i]``.

        Returns the answers in the order of ``i``; see ``env_worker.execute`` for what they are. An environment
        without an answer has lost the episode it was in and is ready for another one.
        """
        raise NotImplementedError

    def play(self, test_mode: bool) -> Any:
        """Play an episode in each environment; replay lost episodes once the others are over."""
        batch, rows = self.new_batch(), range(self.episodes(test_mode))
        episodes: dict[int, Episode] = {}
        while lost := [row for row in rows if row not in episodes]:
            for tensor in batch.data.transition_data.values():
                tensor[lost] = 0
            episodes |= self._play_rows(batch, lost, test_mode)
        ended = [episodes[row] for row in rows]
        self.finish([e.total for e in ended], [e.length for e in ended], [e.info for e in ended], test_mode)
        return batch

    def _play_rows(self, batch: Any, rows: list[int], test_mode: bool) -> dict[int, Episode]:
        """An episode in each of these rows of the batch, which are empty; returns those that came to their end."""
        seen = self.ask("reset", dict.fromkeys(rows))
        # The other episodes are over, so that whatever the controller remembers of them may go.
        self.mac.init_hidden(batch_size=self.batch_size)
        episodes = {row: Episode(total=self.zero_return()) for row in seen}
        acting, t = list(episodes), 0
        if acting:
            self._check(seen, acting, 0)
            batch.update(_columns(seen[row] for row in acting), bs=acting, ts=0)

        while acting:
            with torch.no_grad():
                actions = self.mac.select_actions(batch, t_ep=t, t_env=self.t_env, bs=acting, test_mode=test_mode)
            batch.update({"actions": actions.unsqueeze(1)}, bs=acting, ts=t, mark_filled=False)
            # An episode that ended at the last step has acted in its last state now, and is left out from here.
            chosen = dict(zip(acting, actions.cpu().numpy(), strict=True))
            replies = self.ask("step", {row: chosen[row] for row in acting if not episodes[row].over})
            if test_mode and self.args.render and 0 in replies and not self.ask("render", {0: None}):
                del replies[0]
            acting = list(replies)
            if not acting:
                break
            outcome = [self._count(episodes[row], replies[row]) for row in acting]
            batch.update(_columns(outcome), bs=acting, ts=t, mark_filled=False)
            t += 1
            seen = {row: replies[row]["seen"] for row in acting}
            self._check(seen, [row for row in acting if not episodes[row].over], t)
            batch.update(_columns(seen.values()), bs=acting, ts=t)
        return {row: episode for row, episode in episodes.items() if episode.over}

    def _check(self, seen: Mapping[int, Mapping[str, Any]], running: list[int], t: int) -> None:
        """Raise ConfigError for what cannot be stored or played; only ``running`` episodes need available actions."""
        for row, shown in seen.items():
            self.check_agents(shown, row, t)
        if running:
            self.check_masks([seen[row]["avail_actions"] for row in running], running, t)

    def _count(self, episode: Episode, reply: Mapping[str, Any]) -> dict[str, tuple]:
        episode.total = episode.total + reply["reward"]
        episode.length += 1
        episode.over, episode.info = reply["over"], reply["info"]
        ended = self.stored_end(reply["terminated"], reply["truncated"], episode.info)
        return {"reward": (reply["reward"],), "terminated": (bool(ended),)}


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list]:
    rows = list(rows)
    return {key: [row[key] for row in rows] for key in rows[0]}
