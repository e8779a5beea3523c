"""Record the first battles of a test: what the controller computed is kept while it plays, the rest comes afterwards.

The probabilities are those from which the actions were chosen. Only the frozen reference is computed again, and only
if it is wanted, because it takes as long as the policy.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lolm_plugin import __version__
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Acting
from lolm_plugin.modules.heads import entropy, kl_divergence, masked_log_softmax
from lolm_plugin.prompts.automatic import AutomaticWriter
from lolm_plugin.protocols import Batch
from lolm_plugin.watch import field as fields
from lolm_plugin.watch.field import Field, rounded
from lolm_plugin.watch.record import Agent, Battle, Record, Units
from lolm_plugin.watch.sentences import Sentences

PROBABILITY, POSITION, SMALL = 4, 3, 3  # decimals


class Recorder:
    """Recorder of the first ``wanted`` battles of each test.

    Args:
        args: the configuration.
        learner: has the controller ``mac`` and, for values, ``critic`` and ``value_normaliser``.
        wanted: number of battles.
        reference: True: also compute the frozen reference's probabilities, which takes as long as the policy's. With
            False, ``deferred`` can still compute them later.
    """

    def __init__(self, args: Namespace, learner: Any, wanted: int, reference: bool) -> None:
        self.args, self.learner, self.wanted = args, learner, wanted
        self.mac: Controller = learner.mac
        self.layouts = self.mac.layouts
        backbone = getattr(getattr(self.mac, "agent", None), "backbone", None)
        self._has_reference = bool(getattr(backbone, "has_reference", False))
        self._reference = reference and self._has_reference
        prompter = getattr(getattr(self.mac, "agent", None), "prompter", None)
        self._reads = prompter is not None
        self._writer = prompter.writer if prompter else AutomaticWriter(self.layouts.observation, False, True)
        self._steps: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        self._start()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Start a record, and keep what the controller computes while the context is open."""
        self._start()
        self.mac.test_listener = self._listen
        try:
            yield
        finally:
            self.mac.test_listener = None

    def add(self, batch: Batch, count: int, t_env: int, infos: Sequence[Mapping[str, Any]] = ()) -> None:
        """Add the battles of a batch that was just played.

        Args:
            batch: the episodes.
            count: the number of its episodes that are not empty.
            t_env: environment steps so far.
            infos: the last ``info`` of each episode; if there is none, the last state decides who won.
        """
        rows = min(count, self.wanted - len(self._battles))
        if rows > 0:
            few = batch[list(range(rows))]  # a copy: it may be kept, and the whole batch is larger
            length = (few["filled"].squeeze(-1) > 0).sum(1) - 1
            reference = self._references(few, t_env) if self._reference else None
            values = self._values(few, t_env)
            for row in range(rows):
                if length[row] > 0:
                    battle = self._battle(few, row, int(length[row]), reference, values)
                    if infos and "battle_won" in infos[row]:
                        battle = battle.model_copy(update={"won": bool(infos[row]["battle_won"])})
                    self._battles.append(battle)
            if self._has_reference and not self._reference:
                played = [row for row in range(rows) if length[row] > 0]
                log_probs = {
                    row: torch.stack([self._steps[row, t][0] for t in range(int(length[row]))], 1) for row in played
                }
                self._played.append((few, t_env, log_probs))
        self._steps = {}

    def deferred(self) -> Callable[[Record], Record] | None:
        """Return a function that adds the frozen reference to the record of this test; None if there is none.

        It may be called after further updates, because it uses today's head. A training computes the reference once at
        its end, instead of in each test.
        """
        if not self._played:
            return None
        head: Any = self.mac.agent.head
        weights, played = _copy(head), self._played

        def add(record: Record) -> Record:
            current = _copy(head)
            head.load_state_dict(weights)
            try:
                battles = iter(record.battles)
                return record.model_copy(update={"battles": [b for one in played for b in self._add(battles, *one)]})
            finally:
                head.load_state_dict(current)

        return add

    def _add(self, battles: Iterator[Battle], few: Batch, t_env: int, log_probs: dict[int, Tensor]) -> Iterator[Battle]:
        """Yield the next battles with the reference, one for each row of ``log_probs`` [agents, time, actions]."""
        reference = self._references(few, t_env)
        for row, of_row in log_probs.items():
            battle = next(battles)
            agents = []
            for agent, one in enumerate(battle.agents):
                theirs = reference[row, : battle.length, agent]
                available = few["avail_actions"][row, : battle.length, agent].cpu() > 0
                agents.append(one.model_copy(update=_comparison(of_row[agent], theirs, available)))
            yield battle.model_copy(update={"agents": agents})

    def record(self, step: int = 0) -> Record:
        """Return the record of the test so far; ``step`` is that of the policy."""
        args, layout = self.args, self.layouts.observation
        model = str(args.llm["model"]) if self._reads else ""
        return Record(
            format="battle/1",
            program=f"lolm_plugin {__version__}",
            algorithm=str(args.name),
            model=PurePath(model).name,  # a local model is a folder, and a record holds no path
            env=str(args.env),
            map=str(args.env_args.get("map_name") or args.env_args.get("key")),
            seed=int(args.seed),
            step=step,
            greedy=bool(args.test_greedy),
            n_base_actions=layout.n_base_actions,
            prefix=self._writer.prefix,
            read=self._reads,
            forms=self._sentences.forms,
            about=self._sentences.about,
            masks=list(self._masks),
            battles=self._battles,
        )

    def _start(self) -> None:
        self._battles: list[Battle] = []
        self._masks: dict[str, int] = {}
        self._sentences = Sentences(self._writer)
        self._steps = {}
        self._played: list[tuple[Batch, int, dict[int, Tensor]]] = []

    def _listen(self, t: int, running: Tensor, acting: Acting) -> None:
        """Keep the outputs of the policy at timestep ``t`` for the episodes ``running`` that are recorded."""
        room = self.wanted - len(self._battles)
        for row in running[:room].nonzero().flatten().tolist():
            attention = None if acting.attention is None else acting.attention[row].float().cpu()
            self._steps[row, t] = (acting.log_probs[row].float().cpu(), attention)

    @torch.no_grad()
    def _references(self, few: Batch, t_env: int) -> Tensor:
        """Return the reference's log-probabilities [episodes, time, agents, actions]; -inf where there is no choice."""
        valid = (few["filled"][:, :-1] * few["filled"][:, 1:]).squeeze(-1) > 0
        decisions = self.mac.decisions(few, valid, t_env)
        result = torch.full(few["avail_actions"].shape, -torch.inf)
        if len(decisions):
            logits = self.mac.reference_logits(self.mac.reference_states(decisions))
            result[decisions.index] = masked_log_softmax(logits, decisions.available).float().cpu()
        self.mac.end_update()
        return result

    @torch.no_grad()
    def _values(self, few: Batch, t_env: int) -> Tensor | None:
        """Return the critic's values [episodes, time, agents], in units of the return."""
        critic = getattr(self.learner, "critic", None)
        if critic is None:
            return None
        values = critic.evaluate(few, t_env)[0].squeeze(-1)
        return self.learner.value_normaliser.denormalise(values).float().cpu()

    def _battle(self, few: Batch, row: int, length: int, reference: Tensor | None, values: Tensor | None) -> Battle:
        def column(name: str, steps: int = length) -> Tensor:
            return few[name][row, :steps].cpu()

        state, obs = column("state", length + 1).float(), column("obs", length + 1).float()
        available = column("avail_actions") > 0
        reward = column("reward").double().sum(-1).tolist()
        place = fields.build(self.layouts, state, obs)
        prompts = self._prompts(obs[:length], available, place)
        agents = [
            self._agent(
                agent,
                [self._steps[row, t] for t in range(length)],
                obs[:length, agent],
                available[:, agent],
                column("actions")[:, agent, 0].tolist(),
                place,
                None if reference is None else reference[row, :length, agent],
                None if values is None else values[row, :length, agent],
                prompts,
            )
            for agent in range(self.mac.n_agents)
        ]
        return Battle(
            length=length,
            won=place.won,
            total_reward=round(sum(reward), PROBABILITY),
            reward=[round(number, PROBABILITY) for number in reward],
            units=Units(
                label=place.label,
                kind=place.kind,
                side=place.side,
                x=rounded(place.x, POSITION),
                y=rounded(place.y, POSITION),
                health=None if place.health is None else rounded(place.health, SMALL),
                shield=None if place.shield is None else rounded(place.shield, SMALL),
            ),
            agents=agents,
            shots=[list(shot) for shot in place.shots],
        )

    def _agent(
        self,
        agent: int,
        steps: list[tuple[Tensor, Tensor | None]],
        obs: Tensor,
        available: Tensor,
        action: list[int],
        place: Field,
        reference: Tensor | None,
        values: Tensor | None,
        prompts: dict[tuple[int, int], str] | None,
    ) -> Agent:
        """Build the columns of one agent; tensors are [time, ...] of this agent."""
        layout, length = self.layouts.observation, len(obs)
        log_probs = torch.stack([kept[agent] for kept, _ in steps])
        deciding = available.sum(-1) > 1
        meaning = int(layout.meaning(obs[:1])[0])
        entities = layout.target_entities(np.array([agent]), np.array([meaning]))[0]
        names = layout.action_names(meaning)
        entropies = entropy(log_probs)
        compared: Mapping[str, Any] = {"reference": None, "kl": None}
        if reference is not None:
            compared = _comparison(log_probs, reference, available)
        return Agent(
            names=list(names),
            targets=[int(place.columns[agent, entity]) if entity >= 0 else -1 for entity in entities],
            action=action,
            available=[self._mask(mask) for mask in available.tolist()],
            sees=[self._mask(mask) for mask in place.seen[:length, agent].tolist()],
            policy=_shares(log_probs, available, deciding),
            **compared,
            entropy=_sparse(entropies[deciding], deciding, SMALL + 1),
            value=None if values is None else [round(value, SMALL) for value in values.tolist()],
            prompt=None if prompts is None else [prompts.get((t, agent)) for t in range(length)],
            attention=self._attention(agent, steps, place, deciding),
        )

    def _prompts(self, obs: Tensor, available: Tensor, place: Field) -> dict[tuple[int, int], str] | None:
        """Return the prompt of each (step, agent) with a choice.

        A policy without a language model gets texts only if nothing can be drawn.
        """
        if not self._reads and not np.isnan(place.x).all():
            return None
        step, agent = torch.nonzero(available.sum(-1) > 1, as_tuple=True)
        if not len(step):
            return {}
        columns = place.columns
        texts = self._sentences.encode(
            obs[step, agent], available[step, agent].int(), agent, lambda one, entity: int(columns[one, entity])
        )
        return dict(zip(zip(step.tolist(), agent.tolist(), strict=True), texts, strict=True))

    def _attention(
        self, agent: int, steps: list[tuple[Tensor, Tensor | None]], place: Field, deciding: Tensor
    ) -> list[list[float] | None] | None:
        """Return the attention to each unit in each step with a choice, if the policy has attention over units."""
        if steps[0][1] is None or place.health is None:
            return None
        units = [agent, *place.columns[agent].tolist()]
        shares: list[list[float] | None] = []
        for (_, attention), decides in zip(steps, deciding.tolist(), strict=True):
            column = [0.0] * len(place.label)
            if attention is not None:
                for unit, share in zip(units, attention[agent].tolist(), strict=True):
                    column[unit] = round(share, PROBABILITY)
            shares.append(column if decides else None)
        return shares

    def _mask(self, mask: list[bool]) -> int:
        text = "".join("1" if one else "0" for one in mask)
        return self._masks.setdefault(text, len(self._masks))


def _copy(head: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}


def _comparison(log_probs: Tensor, reference: Tensor, available: Tensor) -> dict[str, Any]:
    """Return the columns ``reference`` and ``kl`` of an agent; all tensors are [time, actions]."""
    deciding = available.sum(-1) > 1
    divergence = kl_divergence(log_probs[deciding], reference[deciding])
    return {"reference": _shares(reference, available, deciding), "kl": _sparse(divergence, deciding, SMALL + 1)}


def _shares(log_probs: Tensor, available: Tensor, deciding: Tensor) -> list[list[float] | None]:
    """Return the probabilities of the available actions in each step with a choice."""
    rows = zip(log_probs.exp(), available, deciding.tolist(), strict=True)
    return [
        [round(share, PROBABILITY) for share in shares[mask].tolist()] if decides else None
        for shares, mask, decides in rows
    ]


def _sparse(values: Tensor, deciding: Tensor, decimals: int) -> list[float | None]:
    """Return the values of the steps with a choice, and None for the others."""
    each = iter(values.tolist())
    return [round(next(each), decimals) + 0.0 if decides else None for decides in deciding.tolist()]
