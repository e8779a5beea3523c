"""Write rliable.json: rliable's results for fixed arrays.

rliable needs its own environment, because it pins arch < 8 and so needs pandas < 3::

    pip install 'rliable==1.2.0' 'pandas<3' && python tests/report/make_rliable_json.py
"""

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics

RESAMPLES = 200


def drawn(scores_x, scores_y=None):
    """Return the bootstrap's random indices [resamples, runs, tasks] for each array, from numpy's global generator."""
    shapes = [scores.shape for scores in (scores_x, scores_y) if scores is not None]
    np.random.seed(7)
    return [[np.random.choice(shape[0], shape, replace=True).tolist() for shape in shapes] for _ in range(RESAMPLES)]


def main():
    generator = np.random.default_rng(3)
    x, y = generator.random((5, 3)).round(3), generator.random((4, 3)).round(1)
    y[:4, 2] = x[:4, 2]  # ties
    taus = np.linspace(0, 1, 6)
    expected = {
        "x": x.tolist(),
        "y": y.tolist(),
        "taus": taus.tolist(),
        "mean": metrics.aggregate_mean(x),
        "median": metrics.aggregate_median(x),
        "iqm": metrics.aggregate_iqm(x),
        "iqm_y": metrics.aggregate_iqm(y),
        "optimality_gap": metrics.aggregate_optimality_gap(x),
        "probability_of_improvement": metrics.probability_of_improvement(x, y),
        "profile": [float(library.run_score_deviation(x, tau)) for tau in taus],
    }
    draws = drawn(x)
    np.random.seed(7)
    _, intervals = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=RESAMPLES
    )
    expected |= {"draws": draws, "iqm_interval": intervals["x"][:, 0].tolist()}
    draws = drawn(x, y)
    np.random.seed(7)
    _, intervals = library.get_interval_estimates(
        {"x": [x, y]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=RESAMPLES
    )
    expected |= {"pair_draws": draws, "improvement_interval": intervals["x"][:, 0].tolist()}
    Path(__file__).with_name("rliable.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
