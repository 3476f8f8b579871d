"""Draws the figure of docs/heads.md: a law for each kind of values.

    python -m experiments.figures.heads

Densities are filled, and values with a probability of their own have a bar. Writes docs/images/heads.png.
"""

from __future__ import annotations

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, Normal

from experiments.figures import IMAGES
from tsgen.data.series import Units
from tsgen.data.support import Support
from tsgen.data.transforms import Transforms, fit_transform
from tsgen.figures import BAND_50, BLUE, STYLE, VERMILLION
from tsgen.heads import InDataUnits
from tsgen.heads.count_laws import NegativeBinomialLaw
from tsgen.heads.student_t import StudentTLaw

IMAGE = IMAGES / "heads.png"
POINTS = 400
"""Points at which a density is drawn."""


def gaussian_of_images(text: str, values: Tensor) -> InDataUnits:
    """Returns the law of values on a support whose images have the Gaussian law of some values' images."""
    support = Support.parse(text)
    transform = fit_transform(support, values[:, None], torch.ones_like(values[:, None], dtype=torch.bool))
    image = transform.forward(values)
    units = Units(image.mean().view(1), image.std().view(1), transforms=Transforms([transform]))
    return InDataUnits(Normal(torch.zeros(1).double(), torch.ones(1).double()), units)


def density(ax: Axes, law: Distribution, low: float, high: float) -> None:
    """Fills the density of a law between two values."""
    x = torch.linspace(low, high, POINTS + 2, dtype=torch.float64)[1:-1]
    y = law.log_prob(x[:, None]).exp().flatten()
    ax.fill_between(x, y, color=BAND_50)
    ax.plot(x, y, color=BLUE, lw=1.2)
    ax.set_ylim(0, float(y.max()) * 1.1)
    ax.set_ylabel("density")


def bars(ax: Axes, law: Distribution, values: Tensor, width: float) -> None:
    """Draws the probabilities of single values."""
    ax.bar(values, law.log_prob(values[:, None].double()).exp().flatten(), width, color=VERMILLION)
    ax.set_ylabel("probability")


def panels(axes: list[Axes]) -> None:
    """Draws one law for each kind of values."""
    skewed = 2 * torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    real, positive, rain, counts, share, rounded = axes
    df, loc, scale = (torch.tensor([x], dtype=torch.float64) for x in (2.5, 0.0, 1.0))
    density(real, StudentTLaw(df, loc, scale), -9, 9)
    real.set_title("real, with wild outliers")
    density(positive, gaussian_of_images("positive", skewed), 0, 12)
    positive.set_title("positive")
    law = gaussian_of_images("non_negative", (skewed - 2).clamp(min=0))
    density(rain, law, 0, 12)
    bars(rain.twinx(), law, torch.zeros(1), 0.4)
    rain.set_title("non_negative: zero most days")
    many = NegativeBinomialLaw(torch.tensor([4.0]), torch.tensor([0.5]))
    bars(counts, many, torch.arange(17), 0.8)
    counts.set_title("counts")
    law = gaussian_of_images("interval[0, 100]", (70 + 35 * noise).clamp(0, 100))
    density(share, law, 0, 100)
    bars(share.twinx(), law, torch.tensor([0.0, 100.0]), 3)
    share.set_title("interval[0, 100]")
    law = gaussian_of_images("positive, step 0.1, limit 0.5", (skewed / 2).clamp(min=0.5))
    bars(rounded, law, 0.5 + 0.1 * torch.arange(30), 0.08)
    rounded.set_title("positive, step 0.1, limit 0.5")


def main() -> None:
    """Draws the panels and writes the figure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        panels(list(figure.subplots(2, 3).flat))
        figure.savefig(IMAGE, dpi=80)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
