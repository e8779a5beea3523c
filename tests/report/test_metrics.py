"""Numbers of curves, by hand."""

import numpy as np
import pytest

from lolm_plugin.report import metrics
from lolm_plugin.report.records import Series

RISING = Series((0, 10, 20, 30, 40), (0.0, 0.2, 0.4, 0.8, 0.8))
FLAT = Series((0, 10, 20, 30, 40), (0.0, 0.0, 0.0, 0.0, 0.0))
HEAD_START = Series((0, 10, 20, 30, 40), (0.6, 0.8, 0.8, 0.8, 0.8))


def test_ends():
    curve = Series((0, 1, 2), (0.1, 0.9, 0.5))
    assert (metrics.jumpstart(curve), metrics.best(curve), metrics.final(curve)) == (0.1, 0.9, 0.5)
    assert metrics.untrained(Series((0, 9), (0.3, 0.5))) == 0.3
    assert metrics.untrained(Series((9, 18), (0.3, 0.5))) is None  # tested after an update


def test_the_asymptote_is_the_mean_of_the_last_tenth_but_of_three_at_least():
    assert metrics.asymptote(RISING) == pytest.approx(2 / 3)
    fifty = Series(tuple(range(50)), (*[0.0] * 45, 0.1, 0.2, 0.3, 0.5, 0.7))
    assert metrics.asymptote(fifty) == pytest.approx(0.36)
    assert metrics.asymptote(Series((0,), (0.5,))) == 0.5


def test_a_level_is_reached_by_three_tests_together():
    lucky = Series((0, 1, 2, 3, 4, 5), (0.0, 0.9, 0.0, 0.9, 0.9, 0.9))
    assert metrics.steps_to(0.9, lucky) == 5
    assert metrics.steps_to(0.6, lucky) == 3
    assert metrics.steps_to(0.0, lucky) == 0
    assert metrics.steps_to(0.95, lucky) is None


def test_steps_to_the_asymptote():
    # Means of three: 0, .1, .2, .4667, .6667, .8 against .95 of .6667 and of .8.
    assert metrics.steps_to_asymptote(RISING) == 40
    longer = Series((*RISING.steps, 50), (*RISING.values, 0.8))
    assert metrics.steps_to_asymptote(longer) == 50
    assert metrics.steps_to_asymptote(FLAT) is None


def test_speed_up():
    scratch = Series((*RISING.steps, 50), (*RISING.values, 0.8))
    # .6, .7, .7333, .8 against .95 of .8.
    assert metrics.speed_up(HEAD_START, scratch) == pytest.approx(50 / 30)
    assert metrics.speed_up(FLAT, scratch) is None
    assert metrics.speed_up(HEAD_START, FLAT) is None
    assert metrics.speed_up(Series((0, 10), (0.8, 0.8)), scratch) is None


def test_areas():
    assert metrics.area(RISING, 20) == pytest.approx(10 * (0.1 + 0.3))
    assert metrics.area(RISING, 25) == pytest.approx(4 + 5 * (0.4 + 0.6) / 2)


def test_the_transfer_ratio_is_over_common_steps():
    short = Series((0, 10, 20), (0.6, 0.8, 0.8))
    assert metrics.transfer_ratio(short, RISING) == pytest.approx((15 - 4) / 4)
    later = Series((10, 20, 30), (0.8, 0.8, 0.8))
    assert metrics.transfer_ratio(later, RISING) == pytest.approx((16 - 9) / 9)
    assert metrics.transfer_ratio(RISING, FLAT) is None
    assert metrics.transfer_ratio(Series((50, 60), (1.0, 1.0)), RISING) is None


def test_seeds_meet_on_a_grid_that_all_cover():
    grid, values = metrics.on_grid([Series((0, 10), (0.0, 1.0)), Series((2, 6, 8), (0.0, 0.4, 1.0))], points=4)
    assert grid == pytest.approx([2, 4, 6, 8])
    assert values == pytest.approx(np.array([[0.2, 0.4, 0.6, 0.8], [0.0, 0.2, 0.4, 1.0]]))
    with pytest.raises(ValueError, match="no step in common"):
        metrics.on_grid([Series((0, 1), (0, 0)), Series((2, 3), (0, 0))])
    assert metrics.on_grid([Series((5,), (0.5,))])[1].tolist() == [[0.5]]
