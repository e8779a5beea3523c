"""Decisions of test episodes, for analysis: one line of JSON each, readable while they are played."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.masked_policy import entropy
from lolm_plugin.observations.description import Description

if TYPE_CHECKING:
    from lolm_plugin.controllers.controller import Acting


class DecisionLog:
    """Appends to ``path`` what each agent that had a choice decided, and what it looked at.

    A line has ``t_env``, ``test_episode`` (counted from 0 in this process), ``step``, ``agent``, ``unit``, ``action``,
    ``probability`` of that action and ``entropy`` in nats; with an entity policy ``attention``, the shares by name
    (``self``, ``ally 1``, ``enemy 0``; units that are not there are left out); with DT2GS ``subtask``.
    """

    def __init__(self, path: str, layout: Description) -> None:
        self.wanted = bool(path)
        self.path = Path(path)
        self.layout = layout
        self._begun = 0  # test episodes of the batches before this one
        self._rows = 0
        # Runners ask once more in the state after an episode's last step, so a decision is known to have been played
        # only when its episode is seen to go on.
        self._unplayed: dict[int, list[str]] = {}

    def write(self, batch: Any, t: int, t_env: int, running: Tensor, acting: "Acting", actions: Tensor) -> None:
        """The decisions of the episodes ``running`` (bool [batch]) at timestep ``t``; actions [batch, agents]."""
        if t == 0:
            self._begun += self._rows
            self._rows = int(running.nonzero().max()) + 1  # the last batch of a test may have idle rows
            self._unplayed = {}
        going_on = running.nonzero().flatten().tolist()
        self._append([line for episode in going_on for line in self._unplayed.pop(episode, [])])
        obs = batch["obs"][:, t]
        meanings = self.layout.meaning(obs)
        deciding = ((batch["avail_actions"][:, t] > 0).sum(-1) > 1) & running.unsqueeze(-1)
        spread, chosen = entropy(acting.log_probs), acting.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).exp()
        for episode, agent in deciding.nonzero().tolist():
            line: dict[str, Any] = {
                "t_env": t_env,
                "test_episode": self._begun + episode,
                "step": t,
                "agent": agent,
                "unit": self.layout.agent_names(obs[episode, agent].unsqueeze(0))[0],
                "action": self.layout.action_names(int(meanings[episode, agent]))[int(actions[episode, agent])],
                "probability": round(float(chosen[episode, agent]), 4),
                "entropy": round(float(spread[episode, agent]), 4),
            }
            if acting.attention is not None:
                there = torch.cat([block.present(obs[episode, agent]) for block in self.layout.blocks])
                shares = zip(self._names(agent), acting.attention[episode, agent].tolist(), there.tolist(), strict=True)
                line["attention"] = {name: round(share, 4) for name, share, present in shares if present}
            if acting.subtask is not None:
                line["subtask"] = int(acting.subtask[episode, agent])
            self._unplayed.setdefault(episode, []).append(strict_json.dumps(line) + "\n")

    def _append(self, lines: list[str]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.writelines(lines)
        except OSError as error:
            raise ConfigError(
                f"decisions_file={self.path} cannot be written ({error.strerror}); set it to a file in a folder that "
                "can be, or to nothing."
            ) from error

    def _names(self, agent: int) -> list[str]:
        """The entities in the order of an agent's tokens."""
        others = [block.label(i, agent) for block in self.layout.entities for i in range(len(block.starts))]
        return ["self", *others]
