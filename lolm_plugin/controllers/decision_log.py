"""Decisions of test episodes, for analysis: one line of JSON each, readable while they are played."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lolm_plugin import strict_json
from lolm_plugin.controllers.decisions import Acting
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import entropy
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.layout import ObservationLayout
from lolm_plugin.prompts.scene import kind_name
from lolm_plugin.protocols import Batch


class DecisionLog:
    """Append a line to ``path`` for each decision of an agent that had a choice, with where its policy attended.

    A line has ``t_env``, ``test_episode`` (counted from 0 in this process), ``step``, ``agent``, ``unit``, ``action``,
    ``probability`` of that action and ``entropy`` in nats; with an entity policy ``attention``, the shares by name
    (``self``, ``ally 1``, ``enemy 0``; absent units are left out); with DT2GS ``subtask``.
    """

    def __init__(self, path: str, layout: ObservationLayout | Description) -> None:
        self.wanted = bool(path)
        self.path = Path(path)
        self.layout = layout
        self._begun = 0  # test episodes of the batches before this one
        self._size = 0
        # Runners ask once more in the state after an episode's last step, so a decision counts as played only when its
        # episode continues.
        self._unplayed: dict[int, list[str]] = {}

    def write(self, batch: Batch, t: int, t_env: int, running: Tensor, acting: Acting, actions: Tensor) -> None:
        """Log the decisions of the episodes ``running`` (bool [batch]) at timestep ``t``; actions [batch, agents]."""
        if t == 0:
            self._begun += self._size
            self._size = int(running.nonzero().max()) + 1  # the last batch of a test may have idle episodes
            self._unplayed = {}
        continuing = running.nonzero().flatten().tolist()
        self._append([line for episode in continuing for line in self._unplayed.pop(episode, [])])
        obs, observed = batch["obs"][:, t], None
        if isinstance(self.layout, Description):
            meanings, unit = self.layout.meaning(obs), self.layout.agent
        else:
            observed = self.layout.decode(obs)
            meanings = observed.heals
        deciding = ((batch["avail_actions"][:, t] > 0).sum(-1) > 1) & running.unsqueeze(-1)
        entropies = entropy(acting.log_probs)
        probabilities = acting.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).exp()
        for episode, agent in deciding.nonzero().tolist():
            if observed is not None:
                unit = kind_name(int(observed.own.kind[episode, agent, 0]))
            line: dict[str, Any] = {
                "t_env": t_env,
                "test_episode": self._begun + episode,
                "step": t,
                "agent": agent,
                "unit": unit,
                "action": self.layout.action_names(int(meanings[episode, agent]))[int(actions[episode, agent])],
                "probability": round(float(probabilities[episode, agent]), 4),
                "entropy": round(float(entropies[episode, agent]), 4),
            }
            if acting.attention is not None and observed is not None:
                present = [units.present[episode, agent].tolist() for units in (observed.allies, observed.enemies)]
                allies = [f"ally {i}" for i in range(self.layout.n_agents) if i != agent]
                names = ["self", *allies, *(f"enemy {j}" for j in range(len(present[1])))]
                shares = zip(names, [True, *present[0], *present[1]], acting.attention[episode, agent], strict=True)
                line["attention"] = {name: round(float(share), 4) for name, there, share in shares if there}
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
