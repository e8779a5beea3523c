"""Real runs of two algorithms in real Omniboard on the embedded database, in a real browser: `make test-browser`.

With LOLM_SCREENSHOTS=docs/dashboard it takes the pictures of docs/dashboard.md.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.resume.runs import ROOT, line, train

pytestmark = pytest.mark.browser
PATIENCE = 240  # seconds, for what is installed once
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALGORITHMS, MAPS = ("updet_mappo", "rnn_mappo"), ("retreat", "approach")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two algorithms on two maps."""
    folder = tmp_path_factory.mktemp("runs")
    for algorithm in ALGORITHMS:
        for map_name in MAPS:
            assert train(folder, *line(algorithm, "probe", map_name, "t_max=1500")) == 0
    return folder / "results"


@pytest.fixture(scope="module")
def dashboard(results):
    """``lolm dashboard`` on them: its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lolm_plugin", "dashboard", str(results)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "LOLM_MONGO_URL"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    address = next(found[1] for text in lines if (found := re.search(r"(http://127.0.0.1:\d+/\S+)", text)))
    yield process, address
    process.kill()


@pytest.fixture(scope="module")
def browser():
    program = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, dashboard):
    """The table of runs, as it comes."""
    page = browser.new_page(viewport={"width": 2600, "height": 720})
    page.set_default_timeout(30_000)
    page.goto(dashboard[1])
    expect(page.get_by_text("4 experiments")).to_be_visible(timeout=30_000)
    expect(page.locator(".status-text").filter(visible=True)).to_have_count(4)
    yield page
    page.close()


def picture(page, name):
    if folder := os.environ.get("LOLM_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # until nothing moves any more
        page.screenshot(path=Path(folder) / f"{name}.png")


def names(page):
    """The experiments in the table, from top to bottom."""
    cells = page.locator(".status-text").filter(visible=True).all()
    return [name for _, name in sorted((cell.bounding_box()["y"], cell.inner_text()) for cell in cells)]


def plot_only(page, metric):
    """Choose one metric in the plot that is open."""
    page.get_by_role("button", name=re.compile(r"^\d+ selected$")).last.click()
    menu = page.locator(".btn-group.open ul.multiselect-container").last
    if menu.locator("input[value=multiselect-all]").is_checked():
        menu.get_by_text("Select all").click()
    menu.get_by_text(metric, exact=True).click()
    page.get_by_text("Metrics to plot").click()
    expect(page.locator(".js-plotly-plot .legendtext").first).to_contain_text(metric)


def test_the_table_shows_every_run_with_its_win_rate(page):
    assert sorted(names(page)) == sorted(f"{algorithm} {place}" for algorithm in ALGORITHMS for place in MAPS)
    expect(page.get_by_text("Win rate", exact=True).first).to_be_visible()
    picture(page, "table")


def test_it_sorts(page):
    page.locator("[test-attr=header-sort-experiment_name]").click()
    page.wait_for_timeout(1500)
    assert names(page) in (sorted(names(page)), sorted(names(page), reverse=True))
    before = names(page)
    page.locator("[test-attr=header-sort-experiment_name]").click()
    page.wait_for_timeout(1500)
    assert names(page) == before[::-1]


def test_opening_a_run_shows_its_curves_and_its_configuration(page):
    page.locator("[test-attr=cell-row_expander-0]").click()
    expect(page.locator(".js-plotly-plot")).to_be_visible()
    plot_only(page, "test_battle_won_mean")
    picture(page, "run")
    page.get_by_role("button", name="Config", exact=True).click()
    expect(page.get_by_text("env_args").first).to_be_visible()
    picture(page, "config")


def test_two_runs_are_compared(page):
    for row in (0, 1):
        page.locator(f"[test-attr=cell-row_selection-{row}] .cr").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".modal-dialog")).to_be_visible()
    expect(page.locator(".modal-dialog .js-plotly-plot")).to_be_visible()
    plot_only(page, "test_battle_won_mean")
    picture(page, "compare")


def test_it_filters_by_map(page):
    page.get_by_text("Column Name").click()
    page.keyboard.type("map")
    page.keyboard.press("Enter")
    page.get_by_text("Enter Value...").click()
    page.get_by_text("retreat", exact=True).filter(visible=True).click()
    page.get_by_role("button", name="Add Filter").click()
    expect(page.get_by_text("2 experiments")).to_be_visible()
    assert {name.split()[1] for name in names(page)} == {"retreat"}
    picture(page, "filter")


def test_nothing_listens_beyond_this_machine_and_nothing_is_left(dashboard):
    process, _ = dashboard
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = [c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family[1:], timeout=10)
    assert not alive
