"""Reports on made-up runs: numbers, figures, warnings and errors."""

import json
import re

import pytest
from matplotlib.figure import Figure

from lolm_plugin.commands import lolm
from lolm_plugin.report import figures, records, results, tables
from tests.report.test_records import write

CURVE = ((0, 10, 20), (0.0, 0.5, 1.0))


def add(folder, algorithm, seed, curve=CURVE, map_name="3m", source=None, evaluate=False, run=None, **further):
    """Write the record of a run of lolm_plugin below ``folder``."""
    steps, values = [list(part) for part in curve] if curve else ([], [])
    config = {"name": algorithm, "seed": seed, "env_args": {"map_name": map_name}, "evaluate": evaluate}
    info = {"launch": {"command": f"lolm train {algorithm}", "commit": "c0ffee", "version": "9", "peak_memory_mb": 700}}
    if source:
        config["transfer_from"], info["transfer"] = "x", {"source_map": source}
    metrics = {f"test_{name}_mean": {"steps": steps, "values": values} for name in ("battle_won", "return")}
    name = f"{algorithm}-{map_name}-{source}-{evaluate}-{seed}-{len(list(folder.glob('*')))}"
    write(folder / name, config=config, metrics={**metrics, **further}, info=info, run=run)


def report(folder, *options):
    return lolm.main(["lolm", "report", str(folder), *options])


def table(folder, name):
    """Return the lines of a table's CSV, without the header and quotes."""
    lines = (folder / f"report/tables/{name}.csv").read_text().splitlines()
    return [line.replace('"', "") for line in lines[1:]]


@pytest.fixture
def transfers(tmp_path):
    """Write runs of two algorithms with two seeds each, from scratch and of one transfer."""
    for seed, end in ((1, 0.8), (2, 1.0)):
        for algorithm in ("updet_mappo", "lolm_mappo"):
            add(tmp_path, algorithm, seed, ((10, 20, 30), (0.0, 0.4, end)))
            add(tmp_path, algorithm, seed, ((10, 20, 30, 40), (0.0, 0.0, end, end)), map_name="8m")
            add(tmp_path, algorithm, seed, ((0, 0), (0.2, 0.4)), map_name="8m", source="3m", evaluate=True)
            add(tmp_path, algorithm, seed, ((0, 10, 20), (0.5, end, end)), map_name="8m", source="3m")
    return tmp_path


def test_the_baseline_of_a_jumpstart_is_the_untrained_policy(transfers, monkeypatch):
    add(transfers, "updet_mappo", 3, ((0, 10, 20), (0.1, 0.4, 0.8)), map_name="8m")
    assert report(transfers) == 0
    rows = {row.split(",")[1]: row.split(",") for row in table(transfers, "transfer")}
    columns = (transfers / "report/tables/transfer.csv").read_text().splitlines()[0].split(",")
    column = columns.index("untrained")
    assert rows["updet_mappo"][column] == "0.10"  # of the only run with a test at step 0
    assert rows["lolm_mappo"][column] == "–"
    axis = painted(transfers, "jumpstart")
    (line,) = axis.collections
    assert {height for _, height in line.get_segments()[0]} == {0.1}


def test_all_files_are_written(transfers, capsys):
    assert report(transfers) == 0
    printed = capsys.readouterr().out
    assert "Zero-shot test win rate (table 5)" in printed
    assert f"The report: {transfers / 'report/index.html'}" in printed
    names = {path.name for path in (transfers / "report/figures").iterdir()}
    drawn = ("learning", "zero_shot", "few_shot", "jumpstart", "profile")
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf")}
    tables = {path.name for path in (transfers / "report/tables").iterdir()}
    made = ("results", "zero_shot", "transfer", "aggregate", "improvement", "costs", "runs")
    assert tables == {f"{name}.{kind}" for name in made for kind in ("csv", "md", "tex")}
    tree = json.loads((transfers / "report/results.json").read_text())
    assert tree["sc2"].keys() == {"3m", "8m"}


def test_tables_contain_the_numbers_of_the_runs(transfers):
    report(transfers)
    assert table(transfers, "results")[1] == "3m,updet_mappo,2,30,0.90 ± 0.14,0.43 ± 0.05,0.90 ± 0.14"
    assert table(transfers, "zero_shot") == ["3m → 8m,0.30 ± 0.00 (n=2),0.30 ± 0.00 (n=2)"]
    # Asymptotes of few-shot are means of three tests: (.5 + .8 + .8) / 3 and (.5 + 1 + 1) / 3. From scratch the first
    # value is 0 instead of .5. Few-shot reaches 95 % of its asymptote at 20; from scratch takes 40 steps to its own.
    # Few-shot reaches that one at 10, so the speed-up is 4. No run from scratch was tested at step 0.
    numbers = ["0.50 ± 0.00", "–", "0.77 ± 0.09", "0.60 ± 0.09", "20 ± 0", "40 ± 0", "4.00 ± 0.00", "–"]
    assert table(transfers, "transfer")[0].split(",") == ["3m → 8m", "lolm_mappo", "2", *numbers]
    assert table(transfers, "aggregate")[0].startswith("lolm_mappo,2,2,0.90 [0.80, 1.00],0.90 [")
    assert table(transfers, "improvement")[0].startswith("lolm_mappo,updet_mappo,2,0.50 [")


def test_the_table_of_runs_has_what_is_needed_to_repeat_them(transfers):
    report(transfers)
    rows = table(transfers, "runs")
    assert len(rows) == 16
    assert "few-shot,lolm_mappo,3m → 8m,2,COMPLETED,20,lolm train lolm_mappo,c0ffee,9,h,2026-01-01 10:00" in rows
    assert any("zero-shot" in row and "1.5" in row and "700" in row for row in table(transfers, "costs"))


def test_tables_and_figures_depend_only_on_the_runs_numbers(transfers, tmp_path_factory):
    report(transfers)
    other = tmp_path_factory.mktemp("other")
    for path in sorted(transfers.glob("*/run.json"), reverse=True):  # another order, other times
        content = json.loads(path.read_text())
        moved = other / f"z{path.parent.name[::-1]}"
        path.parent.rename(moved)
        (moved / "run.json").write_text(json.dumps({**content, "stop_time": "2027-01-01T00:00:00"}))
    report(other)
    for path in (transfers / "report").rglob("*.*"):
        same = path.read_bytes() == (other / path.relative_to(transfers)).read_bytes()
        assert same != (path.stem in ("costs", "index")), path


def test_one_seed_gets_no_interval_and_a_warning(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1)
    assert report(tmp_path) == 0
    assert "1 of 1 results of an algorithm on a map or transfer have only one seed." in capsys.readouterr().out
    assert table(tmp_path, "aggregate")[0].startswith("updet_mappo,1,1,1.00 (one seed: no interval)")
    everything = "".join(path.read_text() for path in (tmp_path / "report/tables").glob("*.csv"))
    assert "±" not in everything
    assert "[" not in everything
    assert "They get no interval and no spread" in (tmp_path / "report/index.html").read_text()


def test_unfinished_runs_are_listed_and_not_counted(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1)
    add(tmp_path, "updet_mappo", 2, run={"status": "FAILED", "fail_trace": ["Traceback\n", "ValueError: it broke\n"]})
    add(tmp_path, "updet_mappo", 3, curve=None, run={"status": "RUNNING"})
    assert report(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "2 runs are not finished and not counted: updet_mappo on 3m, seed 2: failed (ValueError: it" in printed
    assert table(tmp_path, "results")[0].split(",")[2] == "1"
    assert any("FAILED (ValueError: it broke)" in row for row in table(tmp_path, "runs"))
    (algorithm,) = json.loads((tmp_path / "report/results.json").read_text())["sc2"]["3m"].values()
    assert algorithm.keys() == {"seed_1"}


def test_a_completed_run_without_measurements_is_not_counted(tmp_path, capsys):
    """A disk failure can lose the measurements of a completed run."""
    add(tmp_path, "updet_mappo", 1)
    (write(tmp_path / "empty") / "metrics.json").write_text("{}")
    assert report(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "1 run is not finished and not counted: mappo on 3m, seed 3: completed, but its metrics.json" in printed
    assert len(table(tmp_path, "results")) == 1


def test_names_with_formula_signs_are_drawn(tmp_path):
    add(tmp_path, "$x_{$", 1, map_name="a$b^$")
    assert report(tmp_path) == 0


@pytest.mark.parametrize("link", ["report", "report/index.html", "report/figures", "report/tables/results.csv"])
def test_a_report_is_not_written_through_a_link(tmp_path, capsys, link):
    """A results folder from someone else could otherwise overwrite a file of the user."""
    add(tmp_path / "runs", "updet_mappo", 1)
    (tmp_path / "mine").mkdir()
    target = tmp_path / "mine/file"
    target.write_text("mine")
    path = tmp_path / "runs" / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target if path.suffix else tmp_path / "mine")
    assert report(tmp_path / "runs") == 2
    assert f"{path} is a link" in capsys.readouterr().err
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["mine"]


def test_a_repeated_seed_counts_once(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1, run={"start_time": "2026-01-02T10:00:00.0"})
    add(tmp_path, "updet_mappo", 1, ((0, 10), (0.0, 0.5)), run={"start_time": "2026-01-01T10:00:00.0"})
    assert report(tmp_path) == 0
    assert "updet_mappo on 3m, seed 1: this seed was run again, and only the last run counts" in capsys.readouterr().out
    assert table(tmp_path, "results")[0].split(",")[2:5] == ["1", "20", "1.00"]
    assert "one seed: no interval" in table(tmp_path, "aggregate")[0]
    assert len(table(tmp_path, "runs")) == 2
    (algorithm,) = json.loads((tmp_path / "report/results.json").read_text())["sc2"]["3m"].values()
    assert algorithm.keys() == {"seed_1"}


def test_runs_without_the_metric_are_reported(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1)
    add(tmp_path, "updet_mappo", 2, ((0, 10), (0.0, float("nan"))))
    add(tmp_path, "updet_mappo", 3, curve=None, entropy={"steps": [1], "values": [1]})
    write(tmp_path / "other", metrics={"test_return_mean": {"steps": [1, 2], "values": [1, 5]}})
    assert report(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "3 finished runs are not counted:" in printed
    for said in ("mappo on 3m, seed 3: no test win rate", "seed 2: a test win rate that is not finite"):
        assert said in printed
    assert [row.split(",")[1:3] for row in table(tmp_path, "results")] == [["updet_mappo", "1"]]


def test_a_spread_over_one_source_or_several_lengths_gives_a_warning(transfers, capsys):
    write_length(transfers, "updet_mappo", 3, 99)
    assert report(transfers) == 0
    printed = capsys.readouterr().out
    assert "lolm_mappo from 3m to 8m, zero-shot: all 2 seeds start from one source run" in printed
    assert "updet_mappo on 3m, from scratch: its seeds had different numbers of steps (t_max 50, 99)" in printed
    assert "lolm_mappo on 3m, from scratch" not in printed


def write_length(folder, algorithm, seed, t_max):
    """Write one more run from scratch on 3m, with another ``t_max``."""
    add(folder, algorithm, seed)
    path = max(folder.glob(f"{algorithm}-3m-*-{seed}-*/config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "t_max": t_max}))


def test_runs_without_common_steps_are_drawn_separately(tmp_path):
    add(tmp_path, "updet_mappo", 1, ((10,), (0.2,)))
    add(tmp_path, "updet_mappo", 2, ((20,), (0.4,)))
    axis = painted(tmp_path, "learning")
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[10, 0.2]], [[20, 0.4]]]
    assert axis.get_legend_handles_labels()[1] == ["updet_mappo (n=2, each run: no common steps)"]


def test_curves_from_scratch_are_not_extrapolated(tmp_path):
    add(tmp_path, "updet_mappo", 1, ((0, 5), (0.0, 0.5)), map_name="8m", source="3m")
    add(tmp_path, "updet_mappo", 1, ((3, 8, 30), (0.0, 0.5, 1.0)), map_name="8m")
    add(tmp_path, "updet_mappo", 2, ((10, 20), (0.9, 1.0)), map_name="8m")
    axis = painted(tmp_path, "few_shot")
    assert axis.get_legend_handles_labels()[1] == ["updet_mappo few-shot (n=1)", "updet_mappo from scratch (n=1)"]
    assert axis.lines[1].get_xydata()[[0, -1]].tolist() == [[3, 0.0], [5, pytest.approx(0.2)]]


def painted(folder, name):
    """Paint the first panel of a figure and return its axes."""
    found, axis = results.select(records.read_all(folder)), Figure().subplots()
    figure = next(figure for figure in figures.all_figures(found) if figure.name == name)
    figure.paint(axis, found, figure.panels[0][1])
    return axis


def test_the_page_is_self_contained_and_escaped(tmp_path):
    add(tmp_path, "<script>alert(1)</script>", 1)
    assert report(tmp_path, "--title", "<b>mine</b>") == 0
    page = (tmp_path / "report/index.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/png;base64,") == 1


def test_report_on_runs_of_epymarl(tmp_path):
    write(tmp_path / "mappo/3m/1", metrics={"test_return_mean": {"steps": [1, 2], "values": [1, 5]}})
    assert report(tmp_path) == 0
    assert table(tmp_path, "results")[0] == "3m,mappo,1,2,5.00,3.00,5.00"
    assert "not recorded,not recorded,not recorded,h," in table(tmp_path, "runs")[0]
    assert "test return" in (tmp_path / "report/index.html").read_text()


def test_ablations_and_entropy_have_their_figures(tmp_path):
    entropy = {"entropy": {"steps": [0, 10], "values": [1.7, 0.5]}}
    for algorithm in ("lolm_mappo", "lolm_mappo_no_kl"):
        add(tmp_path, algorithm, 1, **entropy)
    assert report(tmp_path) == 0
    names = {path.stem for path in (tmp_path / "report/figures").iterdir()}
    assert names == {"learning", "ablations", "entropy"}


@pytest.mark.parametrize(("made", "said"), [(False, "is not a folder"), (True, "has no Sacred run below it")])
def test_a_folder_without_runs_is_refused(tmp_path, capsys, made, said):
    if made:
        (tmp_path / "runs").mkdir()
    assert report(tmp_path / "runs") == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_finished_runs_is_refused(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1, run={"status": "RUNNING"})
    assert report(tmp_path) == 2
    assert "has no finished run yet (status: RUNNING)" in capsys.readouterr().err


def test_a_folder_without_comparable_runs_is_refused(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1, evaluate=True)
    add(tmp_path, "updet_mappo", 2, curve=None, entropy={"steps": [1], "values": [1]})
    assert report(tmp_path) == 2
    said = "no run that can be compared (an evaluation, and evaluations are not compared; no test return)"
    assert said in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    add(tmp_path, "updet_mappo", 1)
    (tmp_path / "file").write_text("")
    assert report(tmp_path, "--out", str(tmp_path / "file/report")) == 2
    assert "The report cannot be written to" in capsys.readouterr().err


def test_latex_is_escaped(transfers):
    report(transfers)
    text = (transfers / "report/tables/zero_shot.tex").read_text()
    assert r"3m $\to$ 8m & 0.30 $\pm$ 0.00 (n=2)" in text
    assert r"lolm\_mappo" in text


def test_latex_commands_in_a_cell_are_escaped():
    text = tables.Table("x", "x", ["a"], [[r"a{1}^$b\c"]]).latex()
    assert r"a\{1\}\textasciicircum \$b\textbackslash c" in text
