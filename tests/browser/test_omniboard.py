"""Real runs of two algorithms in real Omniboard on the embedded database, in a real browser: `make test-browser`.

With LOLM_SCREENSHOTS=docs/dashboard it takes the pictures of docs/dashboard.md.
"""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.resume.runs import ROOT, line, train

pytestmark = pytest.mark.browser
PATIENCE = 240  # seconds, enough for the first installation
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALGORITHMS, MAPS = ("updet_mappo", "rnn_mappo"), ("retreat", "approach")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Train two algorithms on two maps; return the results folder."""
    folder = tmp_path_factory.mktemp("runs")
    for algorithm in ALGORITHMS:
        for map_name in MAPS:
            assert train(folder, *line(algorithm, "probe", map_name, "t_max=1500")) == 0
    return folder / "results"


@pytest.fixture(scope="module")
def dashboard(results):
    """Start ``lolm dashboard`` on these runs; yield its process and its address."""
    process, address = serve(results)
    yield process, address
    process.kill()


@pytest.fixture(scope="module")
def editable(results, tmp_path_factory):
    """Start ``lolm dashboard --allow-edit`` on a copy of one run; yield its address."""
    folder = tmp_path_factory.mktemp("editable")
    record = min(results.glob("sacred/*/*/1"))
    shutil.copytree(record, folder / "1")
    process, address = serve(folder, "--allow-edit")
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def serve(folder, *options):
    """Start ``lolm dashboard``; returns its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lolm_plugin", "dashboard", str(folder), *options],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "LOLM_MONGO_URL"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    return process, next(found[1] for text in lines if (found := re.search(r"(http://127.0.0.1:\d+/\S+)", text)))


@pytest.fixture(scope="module")
def browser():
    program = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        # A foreign name that resolves to this machine, as in DNS rebinding.
        names = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", names])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, dashboard):
    """Open the table of runs. No request of these tests may need the permission to edit."""
    refused = []
    page = browser.new_page(viewport={"width": 2600, "height": 720})
    page.set_default_timeout(30_000)
    page.on("response", lambda response: refused.append(response.url) if response.status >= 400 else None)
    page.goto(dashboard[1])
    expect(page.get_by_text("4 experiments")).to_be_visible(timeout=30_000)
    expect(page.locator(".status-text").filter(visible=True)).to_have_count(4)
    yield page
    page.close()
    assert refused == []


def picture(page, name):
    if folder := os.environ.get("LOLM_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # until animations have ended
        page.screenshot(path=Path(folder) / f"{name}.png")


def names(page):
    """Return the names of the experiments in the table, from top to bottom."""
    cells = page.locator(".status-text").filter(visible=True).all()
    return [name for _, name in sorted((cell.bounding_box()["y"], cell.inner_text()) for cell in cells)]


def plot_only(page, metric):
    """Select only one metric in the open plot."""
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


def test_the_table_can_be_sorted(page):
    page.locator("[test-attr=header-sort-experiment_name]").click()
    page.wait_for_timeout(1500)
    assert names(page) in (sorted(names(page)), sorted(names(page), reverse=True))
    before = names(page)
    page.locator("[test-attr=header-sort-experiment_name]").click()
    deadline = time.monotonic() + 30
    while names(page) != before[::-1]:  # the table is empty for a moment
        assert time.monotonic() < deadline, names(page)
        page.wait_for_timeout(200)


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
    page.keyboard.type("map_name")
    page.keyboard.press("Enter")
    page.get_by_text("Enter Value...").click()
    page.get_by_text("retreat", exact=True).filter(visible=True).click()
    page.get_by_role("button", name="Add Filter").click()
    expect(page.get_by_text("2 experiments")).to_be_visible()
    assert {name.split()[1] for name in names(page)} == {"retreat"}
    picture(page, "filter")


# Requests that a page can make in a browser; each result is what the page can see.
TRIES = """async (address) => {
  const runs = `${address}/api/v1/Runs`, seen = {};
  const ask = async (name, url, options) => {
    try { const answer = await fetch(url, options); seen[name] = `${answer.type} ${answer.status}`; }
    catch (error) { seen[name] = error.name; }
  };
  await ask("read", runs, {});
  await ask("read without CORS", runs, {mode: "no-cors"});
  await ask("delete", `${runs}/1`, {method: "DELETE"});
  const json = {"Content-Type": "application/json"};
  await ask("change", `${runs}/1`, {method: "PUT", headers: json, body: '{"status": "x"}'});
  await ask("forge without CORS", runs, {method: "POST", mode: "no-cors", body: "_id=99"});
  return seen;
}"""


@pytest.fixture(scope="module")
def stranger():
    """Serve another program's page on this machine, the closest foreign origin; yield its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def statuses(address):
    """Return the status of every run, requested as by Omniboard's own page."""
    with urllib.request.urlopen(f"{address}/api/v1/Runs") as answer:
        return [run["status"] for run in json.load(answer)]


@pytest.mark.parametrize("which", ["dashboard", "editable"])
def test_a_page_of_another_origin_gets_nothing(browser, stranger, request, which):
    target = request.getfixturevalue(which)
    address = target if which == "editable" else target[1]
    before = statuses(address)
    tab = browser.new_page()
    answers = []
    tab.on("response", lambda response: answers.append((response.url, response.status)))
    tab.goto(stranger)
    seen = tab.evaluate(TRIES, address)
    assert seen == {
        "read": "TypeError",
        "read without CORS": "TypeError",
        "delete": "TypeError",
        "change": "TypeError",
        "forge without CORS": "TypeError",
    }
    assert {status for url, status in answers if url.startswith(address)} <= {403}
    # A form is sent without any check of CORS.
    tab.set_content(f'<form method=post action="{address}/api/v1/Runs"><input name=_id value=99></form>')
    with tab.expect_response(lambda response: response.url.startswith(address)) as answer:
        tab.evaluate("document.forms[0].submit()")
    assert answer.value.status == 403
    tab.close()
    assert statuses(address) == before


def test_dns_rebinding_gets_nothing(browser, dashboard):
    tab = browser.new_page()
    answer = tab.goto(dashboard[1].replace("127.0.0.1", "rebound.example"))
    assert answer.status == 403
    assert "Refused" in tab.content()
    tab.close()


def test_its_own_page_changes_runs_only_with_allow_edit(browser, dashboard, editable):
    for address, status in ((dashboard[1], "basic 403"), (editable, "basic 200")):
        tab = browser.new_page()
        tab.goto(address)
        seen = tab.evaluate(TRIES, address)
        assert seen["read"] == "basic 200"
        assert seen["change"] == status
        tab.close()
    assert statuses(editable) == []  # deleted by its own page
    assert statuses(dashboard[1]) == ["COMPLETED"] * 4


def test_it_listens_only_on_this_machine_and_leaves_no_process(dashboard):
    process, _ = dashboard
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = [c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family[1:], timeout=10)
    assert not alive
