"""EPyMARL's settings for TensorBoard and W&B, and ``use_trackio``, on the bundled host."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lolm_plugin.host import epymarl
from lolm_plugin.tracking.steps import Trackio
from tests.resume.runs import line, series, steps, train


def test_tensorboard_gets_the_same_values_as_sacred(tmp_path):
    assert train(tmp_path, *line("updet_mappo", "probe", "duel", "t_max=200", "use_tensorboard=True")) == 0
    (folder,) = (tmp_path / "results/tb_logs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for name, (at, values) in series(tmp_path, 1).items():
        found = events.Scalars(name)
        assert [event.step for event in found] == at, name
        assert [event.value for event in found] == pytest.approx(values, rel=1e-5), name
    (text,) = events.Tensors("battles/text_summary")
    assert b"/1/battle.html" in text.tensor_proto.string_val[0]


class FakeWandB:
    """Fake of the used part of the packages W&B and Trackio; it keeps all values."""

    def __init__(self, folder):
        self.logged, self.ended = {}, False
        self.dir = str(folder)

    def init(self, **settings):
        self.settings = settings
        return self

    def log(self, values, step):
        assert step not in self.logged, "a step was sent twice"
        assert step >= max(self.logged, default=0), "W&B's steps can only increase"
        self.logged[step] = values

    def finish(self):
        self.ended = True

    def Html(self, data, inject):
        return data if isinstance(data, str) else data.read_text()


def test_wandb_and_trackio_get_the_same_values_as_sacred_and_the_battles(tmp_path, monkeypatch):
    wandb, trackio = FakeWandB(tmp_path / "wandb"), FakeWandB(tmp_path)
    for name, fake in (("wandb", wandb), ("trackio", trackio)):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=fake.init, Html=fake.Html))
    where = ("wandb_team=us", "wandb_project=battles", "wandb_save_model=True", "use_trackio=True")
    assert train(tmp_path, *line("updet_mappo", "probe", "duel", "t_max=200", "use_wandb=True", *where)) == 0
    assert wandb.settings["entity"] == "us"
    assert wandb.settings["group"] == "updet_mappo_probe_duel"
    assert trackio.settings["project"] == "probe-duel"
    assert trackio.settings["name"] in {path.name for path in (tmp_path / "results/models").iterdir()}
    for tracker in (wandb, trackio):
        assert tracker.ended
        for name, (at, values) in series(tmp_path, 1).items():
            assert [tracker.logged[step][name] for step in at] == values, name
        assert tracker.logged[max(tracker.logged)]["battles"].startswith("<!doctype html>")
    kept = {int(path.name) for path in (tmp_path / "wandb/models").glob("*/*")}
    assert kept == set(steps(tmp_path))


@pytest.mark.parametrize(
    ("updates", "absent", "said"),
    [
        (["use_tensorboard=True"], "torch.utils.tensorboard", "use_tensorboard=True needs the package tensorboard"),
        (["use_wandb=True"], "wandb", "set wandb_team"),
        (["use_wandb=True", "wandb_team=us", "wandb_project=b"], "wandb", "use_wandb=True needs the package wandb"),
        (["use_trackio=True"], "trackio", "pip install 'lolm_plugin[trackio]', or set use_trackio to False"),
    ],
)
def test_a_missing_package_or_setting_is_an_error(tmp_path, monkeypatch, capsys, updates, absent, said):
    monkeypatch.setitem(sys.modules, absent, None)
    assert train(tmp_path, *line("updet_mappo", "probe", "duel", "t_max=200", *updates)) == 2
    assert said in capsys.readouterr().err


def test_epymarls_logger_passes_numbers_to_trackio_and_the_page_to_both(tmp_path, monkeypatch):
    fake = FakeWandB(tmp_path)
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=fake.init, Html=fake.Html))
    (tmp_path / "battle.html").write_text("a page")

    class Base:  # what EPyMARL's own class has
        use_wandb = True

        def __init__(self):
            self.wandb_current_data, self.stats = {}, []

        def log_stat(self, key, value, t, to_sacred=True):
            self.stats.append((key, value, t, to_sacred))

        def finish(self):
            self.stats.append("finished")

    logger = epymarl._with_pages(Base)()
    logger.trackio = Trackio({"name": "updet_mappo", "env": "smax", "env_args": {"map_name": ["3m", "8m"]}}, "run")
    logger.log_stat("loss", 0.5, 7, to_sacred=False)
    logger.log_page("battles", tmp_path / "battle.html")
    logger.finish()
    assert fake.settings["project"] == "smax-3m+8m"
    assert fake.logged == {7: {"loss": 0.5, "battles": "a page"}}
    assert fake.ended
    assert logger.wandb_current_data == {"battles": "a page"}
    assert logger.stats == [("loss", 0.5, 7, False), "finished"]
