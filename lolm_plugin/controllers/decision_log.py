"""Log of the decisions in test episodes, for analysis: one JSON line per decision, written during play."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lolm_plugin import strict_json
from lolm_plugin.controllers.decisions import Acting
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import entropy
from lolm_plugin.observations.description import Description
from lolm_plugin.protocols import Batch


class DecisionLog:
    """Log file ``path`` with one line per decision, that is, per agent-step with a choice.

    A line has ``t_env``, ``test_episode`` (counted from 0 in this process), ``step``, ``agent``, ``unit``, ``action``,
    ``probability`` of that action and ``entropy`` in nats. An entity policy adds ``attention``: weights by name
    (``self``, ``ally 1``, ``enemy 0``), without absent units. DT2GS adds ``subtask``.
    """

    def __init__(self, path: str, layout: Description) -> None:
        self.wanted = bool(path)
        self.path = Path(path)
        self.layout = layout
        self._begun = 0  # number of test episodes in earlier batches
        self._size = 0
        # Runners ask for one more action after the last step of an episode. It is never played, so a decision is
        # written only when its episode continues.
        self._unplayed: dict[int, list[str]] = {}

    def write(self, batch: Batch, t: int, t_env: int, running: Tensor, acting: Acting, actions: Tensor) -> None:
        """Log the decisions of the episodes ``running`` (bool [batch]) at timestep ``t``; actions [batch, agents]."""
        if t == 0:
            self._begun += self._size
            self._size = int(running.nonzero().max()) + 1  # in the last batch of a test some episodes may be empty
            self._unplayed = {}
        continuing = running.nonzero().flatten().tolist()
        self._append([line for episode in continuing for line in self._unplayed.pop(episode, [])])
        obs = batch["obs"][:, t]
        meanings = self.layout.meaning(obs)
        deciding = ((batch["avail_actions"][:, t] > 0).sum(-1) > 1) & running.unsqueeze(-1)
        entropies = entropy(acting.log_probs)
        probabilities = acting.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).exp()
        for episode, agent in deciding.nonzero().tolist():
            line: dict[str, Any] = {
                "t_env": t_env,
                "test_episode": self._begun + episode,
                "step": t,
                "agent": agent,
                "unit": self.layout.agent_names(obs[episode, agent].unsqueeze(0))[0],
                "action": self.layout.action_names(int(meanings[episode, agent]))[int(actions[episode, agent])],
                "probability": round(float(probabilities[episode, agent]), 4),
                "entropy": round(float(entropies[episode, agent]), 4),
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
                f"decisions_file={self.path} cannot be written ({error.strerror}); set it to a file in a "
                "writable folder, or leave it empty."
            ) from error

    def _names(self, agent: int) -> list[str]:
        """Return the entities' names in the order of an agent's entity features."""
        others = [block.label(i, agent) for block in self.layout.entities for i in range(len(block.starts))]
        return ["self", *others]
