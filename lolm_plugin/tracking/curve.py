"""The picture of a run."""

from collections.abc import Mapping
from pathlib import Path

Metrics = Mapping[str, Mapping[str, list]]

# Okabe and Ito's colours, told apart by the colour-blind.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"


def draw_curve(metrics: Metrics, title: str, path: Path) -> None:
    """Win rate, return, entropy and KL weight over environment steps, as a PNG.

    ``metrics`` is what Sacred stores: name -> {"steps": [...], "values": [...]}. Panels whose metrics were
    not measured are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    played = (("test_{}", "test", BLUE), ("test_sampled_{}", "test, sampled", GREEN), ("{}", "training", ORANGE))
    panels = [
        *(
            (label, [(form.format(name), legend, colour) for form, legend, colour in played])
            for label, name in (("win rate", "battle_won_mean"), ("return", "return_mean"))
        ),
        ("policy entropy (nats)", [("entropy", "entropy", GREEN)]),
        ("weight of the KL", [("kl_coef", "kl_coef", GREY)]),
    ]
    shown = [(label, [line for line in lines if line[0] in metrics]) for label, lines in panels]
    shown = [(label, lines) for label, lines in shown if lines]
    if not shown:
        return
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 3), squeeze=False, layout="constrained")
    for axis, (label, lines) in zip(axes[0], shown, strict=True):
        for name, legend, colour in lines:
            axis.plot(metrics[name]["steps"], metrics[name]["values"], "o-", ms=3, color=colour, label=legend)
        axis.set(xlabel="environment steps", title=label)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(frameon=False)
    axes[0][0].set_ylim((-0.03, 1.03) if shown[0][0] == "win rate" else None)
    figure.suptitle(title, parse_math=False)  # a name may have any character
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
