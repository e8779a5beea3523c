"""The report has pages of the best and the worst battle of each line, made from strictly read records."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from lolm_plugin.paths import write_whole
from lolm_plugin.report import battles
from lolm_plugin.watch import record

RECORD = record.read(Path(__file__).parents[1] / "browser/battles_3m.json")


def test_each_line_gets_its_best_and_its_worst_battle(tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        (folder / "battles").mkdir(parents=True)
    rewards = [battle.total_reward for battle in RECORD.battles]
    records = [
        RECORD.model_copy(update={"battles": RECORD.battles[:2], "seed": 1}),
        RECORD.model_copy(update={"seed": 2}),
    ]
    for folder, one in zip(folders, records, strict=False):
        write_whole(folder / "battles/last.json", record.dumps(one))
    (folders[0] / "battle.html").write_text("a page from someone else")
    write_whole(folders[2] / "battles/last.json", "{}")  # damaged: its run counts without battles
    counted = pd.DataFrame(
        [
            {"task": "3m", "line": line, "run": SimpleNamespace(folder=folder)}
            for line, folder in zip("aab", folders, strict=True)
        ]
    )
    out = tmp_path / "report"
    out.mkdir()
    best, worst = battles.write(SimpleNamespace(counted=counted), out)
    assert (best.which, worst.which, best.line, best.task) == ("best", "worst", "a", "3m")
    assert best.result == f"won, return {max(rewards):.2f}"
    assert worst.result == f"lost, return {min(rewards):.2f}"
    assert sorted(path.name for path in (out / "battles").iterdir()) == ["1-best.html", "1-worst.html"]
    assert all((out / each.file).read_text().startswith("<!doctype html>") for each in (best, worst))
