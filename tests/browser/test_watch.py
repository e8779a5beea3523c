"""The page of battles in a real browser: `make test-browser`. Its numbers must be those of the record.

``battles_3m.json`` are battles of SmolLM2-135M on SMAX 3m. With LOLM_SCREENSHOTS=docs/watch the test takes the
pictures of docs/watch.md.
"""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from lolm_plugin.watch import animation, page, record

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RECORD = record.read(Path(__file__).with_name("battles_3m.json"))
HOSTILE = "<script>document.title='run'</script><img src=//example.com/x onerror=document.title='run'>"
STEP = 7  # of the first battle: the agents shoot at one enemy


@pytest.fixture(scope="module")
def browser():
    program = next(found for name in BROWSERS if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Return a function that opens the page of some records; no console line and no request may occur."""
    said, requested, pages = [], [], []

    def open_one(*records, **options):
        file = tmp_path / "battle.html"
        file.write_text(page.html(records))
        shown = browser.new_page(viewport={"width": 1280, "height": 880}, reduced_motion="reduce", **options)
        shown.set_default_timeout(30_000)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: requested.append(request.url))
        shown.goto(file.as_uri())
        shown.wait_for_selector("body[data-ready]")
        pages.append(shown)
        return shown

    yield open_one
    assert said == []
    assert [url for url in requested if not url.startswith(("file://", "data:"))] == []
    for shown in pages:
        shown.close()


def compare(shown, battle, number, t):
    """Compare the panel of an agent with the record."""
    agent = battle.agents[number]
    expect(shown.locator("h2[data-agent]")).to_contain_text(battle.units.label[number])
    rows = shown.locator("tr[data-action]").evaluate_all(
        "all => all.map(row => [row.dataset.action, row.dataset.policy, row.dataset.reference, row.className])"
    )
    offered = [i for i, bit in enumerate(RECORD.masks[agent.available[t]]) if bit == "1"]
    if agent.policy[t] is None:
        assert rows == []
        return
    assert [int(action) for action, *_ in rows] == offered
    assert [float(share) for _, share, *_ in rows] == agent.policy[t]
    assert [float(share) for _, _, share, _ in rows] == agent.reference[t]
    assert [int(action) for action, *_, chosen in rows if chosen] == [agent.action[t]]
    widths = shown.locator("tr .bar:not(.reference)").evaluate_all("all => all.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * share for share in agent.policy[t]])
    facts = dict(shown.locator("dd").evaluate_all("all => all.map(one => [one.dataset.fact, one.textContent])"))
    assert float(facts["entropy (nats)"]) == pytest.approx(agent.entropy[t], abs=6e-4)
    assert float(facts["KL to reference"]) == pytest.approx(agent.kl[t], abs=6e-4)
    assert float(facts["reward so far"]) == pytest.approx(sum(battle.reward[:t]), abs=6e-3)
    sentences = record.text_of(RECORD, agent.prompt[t])
    assert shown.locator("p.sentence").all_text_contents() == [text.removesuffix("\n") for text, _ in sentences]
    target = agent.action[t] - RECORD.n_base_actions
    about = [text.removesuffix("\n") for text, unit in sentences if target >= 0 and unit == agent.targets[target]]
    assert shown.locator("p.target").all_text_contents() == about


def test_every_agent_of_every_step_by_keyboard_alone(open_page):
    shown, battle = open_page(RECORD), RECORD.battles[0]
    compared = 0
    for t in range(battle.length):
        for number in range(len(battle.agents)):
            compare(shown, battle, number, t)
            compared += battle.agents[number].policy[t] is not None
            shown.keyboard.press("n")
        living = [i for i, column in enumerate(battle.units.x) if column[t] is not None]
        drawn = shown.locator(".unit").evaluate_all("all => all.map(unit => Number(unit.dataset.unit))")
        assert drawn == living
        shown.keyboard.press("ArrowRight")
    assert compared > battle.length
    expect(shown.locator("h2[data-agent]")).to_contain_text("the battle is over")
    expect(shown.locator("line.death")).to_have_count(4)  # three enemies and one ally


def test_it_plays_scrubs_and_hides_what_an_agent_cannot_see(open_page):
    hidden = RECORD.model_copy(deep=True)
    mask = hidden.masks[hidden.battles[0].agents[0].sees[0]]
    hidden.masks.append(mask[:-1] + "0")
    hidden.battles[0].agents[0].sees[0] = len(hidden.masks) - 1
    hidden.battles[0].shots = [[STEP, 4, 0], [STEP + 1, 4, 0], [STEP + 1, 4, 1]]
    hidden.battles[0].units.side[5] = 3  # as if the last enemy were a shelf
    shown = open_page(hidden)
    expect(shown.locator(".unit.hidden")).to_have_count(0)
    shown.keyboard.press("e")
    expect(shown.locator(".hidden")).to_have_count(mask[:-1].count("0") + 1)
    shown.keyboard.press("2")  # another agent, by its number
    expect(shown.locator("h2[data-agent]")).to_have_attribute("data-agent", "1")
    shown.locator("#scrub").fill(str(STEP))
    expect(shown.locator("#where")).to_have_text(f"step {STEP} of {RECORD.battles[0].length}")
    expect(shown.locator("line.shot")).to_have_count(3)
    expect(shown.locator("line.enemy-shot")).to_have_count(1)
    expect(shown.locator("rect.tile")).to_have_count(1)
    expect(shown.locator(".unit[data-unit='5']")).to_have_count(0)
    health = hidden.battles[0].units.health
    hurt = [column for column in health if column[STEP] and (column[STEP + 1] or 0) < column[STEP]]
    expect(shown.locator("circle.hurt")).to_have_count(len(hurt))
    assert hurt
    shown.locator("#speed").select_option("20")
    shown.keyboard.press(" ")
    expect(shown.locator("#play")).to_have_text("Play")  # it stops at the end
    expect(shown.locator("#where")).to_have_text("step {0} of {0}".format(RECORD.battles[0].length))
    shown.keyboard.press("]")
    expect(shown.locator("#battle")).to_have_value("1")
    expect(shown.locator("#where")).to_have_text(f"step 0 of {RECORD.battles[1].length}")


def test_two_runs_side_by_side_and_a_hostile_name_as_text(open_page):
    other = RECORD.model_copy(update={"map": HOSTILE, "algorithm": HOSTILE}, deep=True)
    other.battles[0].units.label[0] = HOSTILE
    other.battles[0].agents[0].names[1] = HOSTILE
    shown = open_page(RECORD, other)
    assert shown.locator("section.run").count() == 2
    boxes = [shown.locator("section.run").nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert shown.locator("section.run h2").nth(2).text_content() == f"{HOSTILE} on smax {HOSTILE}"
    assert shown.title() != "run"
    assert shown.locator("img").count() == 0
    assert shown.locator("body script").count() == 2
    shown.keyboard.press("ArrowRight")
    assert [text[:5] for text in shown.locator("section.run h2[data-agent]").all_text_contents()] == [
        "ally ",
        HOSTILE[:5],
    ]
    shown.set_viewport_size({"width": 390, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390


def test_pictures_of_the_documentation(open_page, tmp_path):
    """The pictures are written only on request, but a page in each theme is always opened."""
    folder = Path(os.environ.get("LOLM_SCREENSHOTS") or tmp_path)
    folder.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        shown = open_page(RECORD, color_scheme=scheme)
        for _ in range(STEP):
            shown.keyboard.press("ArrowRight")
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 20, 24)"}[scheme]
        shown.screenshot(path=folder / f"{scheme}.png")
    animation.write(RECORD, 0, folder / "battle.gif")
    assert (folder / "battle.gif").stat().st_size < 1_000_000
