"""A record has the numbers that the controller computes and the text that it reads; a broken file is refused."""

import copy
import json
import logging

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.heads import entropy, kl_divergence, masked_log_softmax
from lolm_plugin.paths import write_whole
from lolm_plugin.watch import keeper as kept
from lolm_plugin.watch import record as records
from lolm_plugin.watch.keeper import Keeper
from lolm_plugin.watch.recorder import Recorder
from tests.controllers.test_decision_log import whole_episode

LENGTHS = (4, 2, 3)


def recorded(learner, batch, wanted=2, reference=True):
    """Record the first battles of a batch while its controller plays it; return the recorder, too."""
    recorder = Recorder(learner.mac.args, learner, wanted, reference)
    with recorder.listening():
        whole_episode(learner.mac, batch, LENGTHS)
        recorder.add(batch, len(LENGTHS), 50, [{"battle_won": won} for won in (1.0, 0.0, 1.0)])
    assert learner.mac.test_listener is None
    return recorder.record(7), recorder


@pytest.fixture
def played(new_learner, tiny_args, play):
    """Return (learner, batch, record) of a language model whose head has one key per target."""
    changes = {"prompt.style": "paper", "head.attack_keys": "entity", "llm.model": "tiny-llama", "lora.rank": 2}
    learner = new_learner(tiny_args(changes))
    with torch.no_grad():  # so that policy and reference differ
        for parameter in learner.mac.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    batch = play(learner.mac, LENGTHS, unseen=0.5)
    return learner, batch, recorded(learner, batch)[0]


def test_every_number_is_what_the_controller_computes(played):
    learner, batch, record = played
    mac, layout = learner.mac, learner.mac.layouts.observation
    assert [(battle.length, battle.won) for battle in record.battles] == [(4, True), (2, False)]
    valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0
    decisions = mac.decisions(batch, valid)
    with torch.no_grad():
        policy = masked_log_softmax(mac.evaluate(decisions, torch.arange(len(decisions))).logits, decisions.available)
        reference = masked_log_softmax(mac.reference_logits(mac.reference_states(decisions)), decisions.available)
        values = learner.value_normaliser.denormalise(learner.critic.evaluate(batch, 0)[0].squeeze(-1))
    numbers = (policy.exp(), reference.exp(), entropy(policy), kl_divergence(policy, reference))
    texts = mac.agent.prompter.writer.describe(
        batch["obs"][decisions.index[:2]][torch.arange(len(decisions)), decisions.index[2]],
        decisions.available.int(),
        decisions.index[2],
    )
    compared, biggest = 0, 0.0
    for row, (episode, t, agent) in enumerate(zip(*(axis.tolist() for axis in decisions.index), strict=True)):
        if episode >= 2:
            continue
        one, offered = record.battles[episode].agents[agent], decisions.available[row]
        assert one.policy[t] == pytest.approx(numbers[0][row][offered].tolist(), abs=1e-4)
        assert one.reference[t] == pytest.approx(numbers[1][row][offered].tolist(), abs=1e-4)
        assert (one.entropy[t], one.kl[t]) == pytest.approx((numbers[2][row].item(), numbers[3][row].item()), abs=1e-4)
        assert one.value[t] == pytest.approx(values[episode, t, agent].item(), abs=1e-3)
        assert one.action[t] == batch["actions"][episode, t, agent, 0]
        assert record.masks[one.available[t]] == "".join(str(int(bit)) for bit in offered)
        sentences = records.text_of(record, one.prompt[t])
        assert "".join(text for text, _ in sentences) == "".join(texts[row].values())
        labels = record.battles[episode].units.label
        named = [(text, labels[unit]) for text, unit in sentences if unit >= 0]
        assert all(text.lower().startswith(label) for text, label in named)
        seen = [label for label, bit in zip(labels, record.masks[one.sees[t]], strict=True) if bit == "1"]
        assert sorted(seen) == sorted([label for _, label in named] + [f"ally {agent}"])
        assert [labels[unit] for unit in one.targets] == [name.removeprefix("attack ") for name in one.names[6:]]
        compared, biggest = compared + 1, max(biggest, one.kl[t])
    assert compared == 8  # of 12 agent-steps; the dead agent has no choice in 4
    assert biggest > 1e-3
    allies, enemies = mac.layouts.state.decode(batch["state"][0])
    for unit, (team, i) in enumerate([(allies, 0), (allies, 1), (enemies, 0), (enemies, 1)]):
        for t in range(5):
            there = bool(team.present[t, i])
            assert (record.battles[0].units.x[unit][t] is not None) == there
            if there:
                x, health = record.battles[0].units.x[unit][t], record.battles[0].units.health[unit][t]
                expected = float(team.fields["x"][t, i]) * mac.layouts.cells, float(team.fields["health"][t, i])
                assert (x, health) == pytest.approx(expected, abs=1e-3)
    assert layout.n_base_actions == record.n_base_actions


def test_the_reference_can_be_added_after_further_updates(played):
    learner, batch, record = played
    without, recorder = recorded(learner, batch, reference=False)
    assert without.battles[0].agents[0].reference is None
    add, head = recorder.deferred(), learner.mac.agent.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(3)
    trained = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    assert add(without) == record
    assert all(torch.equal(tensor, trained[name]) for name, tensor in head.state_dict().items())


def test_attention_is_recorded_by_unit_and_numbers_need_no_prompt(new_learner, tiny_args, play):
    learner = new_learner(tiny_args(algorithm="updet_mappo"))
    record, recorder = recorded(learner, play(learner.mac, LENGTHS, unseen=0.0), wanted=1, reference=False)
    assert recorder.deferred() is None  # it has no reference
    agent = record.battles[0].agents[0]
    assert agent.prompt is None
    assert agent.reference is None
    assert not record.read
    assert sum(agent.attention[0]) == pytest.approx(1, abs=1e-3)
    seen = record.masks[agent.sees[0]]
    assert all(share == 0 for share, bit in zip(agent.attention[0], seen, strict=True) if bit == "0")
    assert max(agent.attention[0]) > 0


BROKEN = {
    "its format": lambda one: one.update(format="battle/0x"),
    "not a record": lambda one: one.clear(),
    "another version": lambda one: one.update(format="battle/2"),
    "an unknown key": lambda one: one.update(path="/home/someone"),
    "a text for a number": lambda one: one["battles"][0]["reward"].__setitem__(0, "1"),
    "a short column": lambda one: one["battles"][0]["units"]["x"][0].pop(),
    "a foreign mask": lambda one: one["battles"][0]["agents"][0]["available"].__setitem__(0, 99),
    "a foreign sentence": lambda one: one["battles"][0]["agents"][0]["prompt"].__setitem__(0, "9999"),
    "too many numbers": lambda one: one["battles"][0]["agents"][0]["prompt"].__setitem__(
        0, "0 0.5 0.5 0.5 0.5 0.5 0.5"
    ),
    "no sentence": lambda one: one["battles"][0]["agents"][0]["prompt"].__setitem__(0, "<b>"),
    "a share too many": lambda one: one["battles"][0]["agents"][0]["policy"][0].append(0.5),
    "a foreign target": lambda one: one["battles"][0]["agents"][0]["targets"].__setitem__(0, 50),
}


def test_a_file_is_read_back_or_refused_in_a_sentence(played, tmp_path):
    record, path = played[2], tmp_path / "battle.json"
    write_whole(path, records.dumps(record))
    assert records.read(path) == record
    assert not list(tmp_path.glob(".*"))
    content = json.loads(path.read_text())
    for name, damage in BROKEN.items():
        broken = copy.deepcopy(content)
        damage(broken)
        path.write_text(json.dumps(broken))
        with pytest.raises(ConfigError) as error:
            records.read(path)
        wanted = {"another version": "update lolm_plugin", "its format": "not a record of battles"}.get(name, "record")
        assert wanted in str(error.value), name
        assert str(error.value).count("\n") == 0
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        records.read(path)


def test_a_failure_ends_the_recording_and_not_the_run(new_learner, tiny_args, play, tmp_path, caplog, monkeypatch):
    learner = new_learner(tiny_args(algorithm="rnn_mappo"))
    batch = play(learner.mac, LENGTHS)
    log = logging.getLogger("kept")
    keeper = Keeper(learner.mac.args, learner, 2, tmp_path, log, reference=False)

    def test(score):
        with keeper.listening():
            whole_episode(learner.mac, batch, LENGTHS)
            keeper.add(batch, len(LENGTHS), 50, [])
        keeper.finish()
        keeper.save(score, int(score[0] * 10))

    for score in ([0.5], [0.9], [0.2]):
        test(score)
    steps = {name: records.read(tmp_path / f"battles/{name}.json").step for name in ("best", "last")}
    assert steps == {"best": 9, "last": 2}
    assert records.read(tmp_path / "battles/5.json").step == 5
    size = (tmp_path / "battles/2.json").stat().st_size
    monkeypatch.setattr(kept, "MOST_BYTES", 3.5 * size)
    for score in ([0.3], [0.4]):  # the files 2, 5 and 9 exist
        test(score)
        steps = sorted(int(path.stem) for path in (tmp_path / "battles").glob("[0-9]*"))
        assert steps == {0.3: [3, 9], 0.4: [3, 4, 9]}[score[0]]
    (tmp_path / "battles/last.json").unlink()
    (tmp_path / "battles/last.json").mkdir()  # which cannot be replaced by a file
    with caplog.at_level(logging.WARNING, "kept"):
        test([1.0])
        test([1.0])
    assert [text.count("keep_battles") for text in caplog.messages] == [1]
    assert records.read(tmp_path / "battles/best.json").step == 9
