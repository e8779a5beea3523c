"""``lolm watch``: from a run's folder or a record to a page; the files of a run's own tests; misuse in one sentence."""

import json
import os

import pytest
from PIL import Image

from lolm_plugin.commands import lolm
from lolm_plugin.watch import record as records
from tests.resume.runs import line, models, record, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a small network on the probe ``duel``, which keeps one battle."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    assert (
        train(folder, *line("updet_mappo", "probe", "duel", "t_max=90", "save_model_interval=50", "keep_battles=1"))
        == 0
    )
    return folder


def watch(folder, *arguments):
    """Run the command in ``folder``; return the exit code."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        return lolm.main(["lolm", "watch", *map(str, arguments)])
    finally:
        os.chdir(here)


def test_a_run_keeps_the_battles_of_its_tests(run):
    folder = record(run, 1)
    kept = records.read(folder / "battles/last.json")
    assert len(kept.battles) == 1
    assert (kept.algorithm, kept.env, kept.map, kept.seed) == ("updet_mappo", "probe", "duel", 1)
    assert (folder / "battles/best.json").is_file()
    assert json.loads((folder / "run.json").read_text())["artifacts"] == ["battle.html"]
    assert "http" not in (folder / "battle.html").read_text().replace("http://www.w3.org/2000/svg", "").replace(
        "http-equiv", ""
    )
    assert str(folder / "battle.html").endswith(
        next(text for text in (folder / "cout.txt").read_text().splitlines() if " battles " in text).split()[1]
    )


def test_two_policies_play_battles_with_the_same_seeds(run, capsys):
    files = ("--output", "out/pair.html", "--json", "pair.json", "--gif", "pair.gif")
    kept = record(run, 1) / "battles/best.json"
    arguments = (models(run), kept, *files, "--epymarl=none", "with", "test_nepisode=3", "load_step=1")
    assert watch(run, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Playing 3 battles" in printed
    assert "The page: out/pair.html" in printed
    first = records.read(run / "pair.json")
    assert len(first.battles) == 3
    assert first.step == min(int(path.name) for path in models(run).glob("[0-9]*"))
    assert (run / "out/pair.html").stat().st_size < 100_000
    with Image.open(run / "pair.gif") as animation:
        assert animation.n_frames > first.battles[0].length  # equal frames in a row are one
    assert watch(run, models(run), "--json", "again.json", "--epymarl=none", "with", "test_nepisode=3") == 0
    again = records.read(run / "again.json")
    assert again.step > first.step
    starts = [[[column[0] for column in battle.units.x] for battle in one.battles] for one in (first, again)]
    assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "has no checkpoint"),
        (["RUN", "RUN", "RUN"], "3 runs are named"),
        (["KEPT/cout.txt"], "cout.txt is not valid JSON"),
        (["KEPT/config.json"], "config.json is not a record of battles"),
        (["KEPT/battles/last.json", "--output", "."], "--output=. is a folder"),
        (["KEPT/battles/last.json", "--json", "/proc/none/x.json"], "cannot be written"),
        (["RUN", "with", "test_greedy=False"], "test_greedy cannot be set for lolm watch"),
        (["RUN", "with", "env_args.map_name=dule"], "set it to one of retreat"),
        ([], "RUN"),
    ],
)
def test_misuse_ends_in_one_sentence_and_code_2(run, arguments, words, capsys):
    places = {"RUN": str(models(run)), "KEPT": str(record(run, 1))}
    named = [word.replace("RUN", places["RUN"]).replace("KEPT", places["KEPT"]) for word in arguments]
    assert watch(run, *named) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
