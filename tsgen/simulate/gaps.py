"""Random gaps: which entries of simulated windows are hidden.

Several kinds of gaps are combined in each window, each present with a probability of its own: random points,
runs of single nodes, outages of the whole network, nodes that are silent for the whole window, a gap at the
end (a forecast), regions that fall silent together, and gaps that depend on the values. Shares vary between
windows, from next to nothing to nearly everything. All channels of a node share the gaps, except that in some
draws of several channels points and runs are drawn for each channel.

:mod:`tsgen.data.masks` has patterns for data at hand; those here are drawn from one generator, many windows
at once, with parameters that vary from window to window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator

from tsgen.argument_types import check_shapes
from tsgen.simulate.networks import Network

Hidden = Bool[np.ndarray, "windows steps nodes channels"]


@check_shapes
@dataclass(frozen=True)
class Gaps:
    """Probabilities with which a window has each kind of gap.

    Draws differ in how incomplete they are: in two of five, all probabilities are multiplied by one factor
    that is uniform on 0..1.

    Args:
        points: Random points, at a rate of u to the power 1.5 with u uniform.
        runs: Runs of single nodes, up to four per node and window, of 1 to 40 steps or half of
            a window, if that is more.
        outages: One to three outages of the whole network, of 1 to 8 steps or a quarter of a window.
        silent: Nodes that are silent for the whole window, up to half of them.
        forecast: A gap at the end of up to half of the window: of the whole network, or of half of the nodes.
        regions: A disk of nodes that is silent, for the whole window or for part of it.
        unmeasured: Probability that nodes are silent in all windows of a draw, up to 30 % of them.
        by_value: Probability that gaps of a whole draw depend on the values; see :func:`by_value`.

    Raises:
        ValueError: If a probability is not within 0..1.
    """

    points: float = 0.7
    runs: float = 0.6
    outages: float = 0.35
    silent: float = 0.3
    forecast: float = 0.12
    regions: float = 0.12
    unmeasured: float = 0.08
    by_value: float = 0.1

    def __post_init__(self) -> None:
        for name, probability in vars(self).items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} must be a probability within 0..1; it is {probability}.")

    def draw(
        self, rng: Generator, network: Network, values: Float[np.ndarray, "windows steps nodes channels"]
    ) -> Bool[np.ndarray, "windows steps nodes channels"]:
        """Draws which entries are visible; some are, and some are not, in every draw.

        Args:
            rng: The source of randomness.
            network: The nodes.
            values: The truth.

        Raises:
            ValueError: If the values are not of the network's nodes, are not finite, or have an empty axis.
        """
        windows, steps, nodes, channels = values.shape
        if nodes != network.num_nodes or not values.size or not np.isfinite(values).all():
            raise ValueError(
                f"values must be finite, of {network.num_nodes} nodes and at least one window, step and "
                f"channel; they have shape {list(values.shape)}."
            )
        hidden = np.zeros(values.shape, dtype=bool)
        level = 1.0 if rng.random() < 0.6 else rng.random()
        wide = (windows, steps, nodes, channels if rng.random() < 0.5 else 1)
        for probability, kind in (
            (self.points, lambda: points(rng, wide)),
            (self.runs, lambda: runs(rng, wide, longest=max(40, steps // 2))),
            (self.outages, lambda: outages(rng, windows, steps)),
            (self.silent, lambda: silent(rng, windows, nodes)),
            (self.forecast, lambda: forecast(rng, windows, steps, nodes)),
            (self.regions, lambda: regions(rng, network, windows, steps)),
        ):
            present = rng.random((windows, 1, 1, 1)) < level * probability
            hidden |= present & kind()
        if rng.random() < self.unmeasured:
            hidden |= rng.random((nodes, 1)) < rng.uniform(0, 0.3)
        if rng.random() < self.by_value:
            hidden |= by_value(rng, values)
        return ~_never_all_or_nothing(rng, hidden)


def _never_all_or_nothing(rng: Generator, hidden: Hidden) -> Hidden:
    """Returns the gaps after showing some entries if nearly all are hidden, or hiding some if nearly none
    are."""
    share = hidden.mean()
    if share > 0.97:
        return hidden & (rng.random(hidden.shape) < 0.95)
    if share < 0.03:
        return hidden | (rng.random(hidden.shape) < 0.1)
    return hidden


def points(rng: Generator, shape: tuple[int, int, int, int]) -> Hidden:
    """Draws random points at a rate of u to the power 1.5 per window, with u uniform on 0..1.

    Args:
        rng: The source of randomness.
        shape: Windows, steps, nodes and channels.
    """
    return rng.random(shape) < rng.random((shape[0], 1, 1, 1)) ** 1.5


def runs(rng: Generator, shape: tuple[int, int, int, int], longest: int) -> Hidden:
    """Draws runs of single nodes that may begin before the window.

    A window has 4 u^2 runs per node on average, with u uniform on 0..1, in its steps and the ``longest`` - 1
    before them.

    Args:
        rng: The source of randomness.
        shape: Windows, steps, nodes and channels.
        longest: The longest run, in steps; lengths are log-uniform.
    """
    windows, steps, *rest = shape
    padded = (windows, steps + longest - 1, *rest)
    rate = 4 * rng.random((windows, 1, 1, 1)) ** 2 / padded[1]
    length = np.exp(rng.uniform(0, np.log(longest), padded)).astype(np.int64)
    step = np.arange(padded[1])[:, None, None]
    end = np.maximum.accumulate(np.where(rng.random(padded) < rate, step + length, 0), axis=1)
    return (end > step)[:, longest - 1 :]


def outages(rng: Generator, windows: int, steps: int) -> Hidden:
    """Draws one to three outages of the whole network in each window, of 1 to 8 steps or to a quarter of the
    window, log-uniform.

    Args:
        rng: The source of randomness.
        windows: The number of windows.
        steps: Length of a window.
    """
    start = rng.integers(steps, size=(windows, 1, 3))
    length = np.exp(rng.uniform(0, np.log(max(8, steps // 4) + 1), start.shape)).astype(np.int64)
    count = rng.integers(1, 4, size=(windows, 1, 1))
    step = np.arange(steps)[:, None]
    during = (step >= start) & (step < start + length) & (np.arange(3) < count)
    return during.any(axis=-1).reshape(windows, steps, 1, 1)


def silent(rng: Generator, windows: int, nodes: int) -> Hidden:
    """Draws nodes that are silent for the whole window, at a rate of up to one half.

    Args:
        rng: The source of randomness.
        windows: The number of windows.
        nodes: The number of nodes.
    """
    return rng.random((windows, 1, nodes, 1)) < rng.uniform(0, 0.5, (windows, 1, 1, 1))


def forecast(rng: Generator, windows: int, steps: int, nodes: int) -> Hidden:
    """Draws a gap at the end of each window, of up to half of it; in half of the windows it concerns a random
    half of the nodes.

    Args:
        rng: The source of randomness.
        windows: The number of windows.
        steps: Length of a window.
        nodes: The number of nodes.
    """
    length = rng.integers(1, max(2, steps // 2 + 1), size=(windows, 1, 1, 1))
    share = np.where(rng.random((windows, 1, 1, 1)) < 0.5, 1.0, 0.5)
    concerned = rng.random((windows, 1, nodes, 1)) < share
    return (np.arange(steps)[:, None, None] >= steps - length) & concerned


def regions(rng: Generator, network: Network, windows: int, steps: int) -> Hidden:
    """Draws a region for each window that is silent: in half of the windows always, else for some steps.

    A region holds the nodes nearest to a random one, up to half of the network.

    Args:
        rng: The source of randomness.
        network: The nodes.
        windows: The number of windows.
        steps: Length of a window.
    """
    nodes = network.num_nodes
    rank = network.distance.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    size = rng.uniform(0, 0.5, (windows, 1)) * nodes
    inside = rank[rng.integers(nodes, size=windows)] < size
    start = rng.integers(-steps // 2, steps, size=(windows, 1))
    end = start + rng.integers(2, steps + 1, size=(windows, 1))
    step = np.arange(steps)
    during = ((step >= start) & (step < end)) | (rng.random((windows, 1)) < 0.5)
    return (during[:, :, None] & inside[:, None, :])[..., None]


def by_value(rng: Generator, values: Float[np.ndarray, "windows steps nodes channels"]) -> Hidden:
    r"""Draws gaps that depend on the values: missing not at random.

    An entry is hidden if :math:`s z + \epsilon` is among the largest of the draw, with z the value
    standardised for its node and channel and :math:`\epsilon` logistic; s is uniform on 1..3 with a random
    sign and the share of hidden entries uniform on 5..50 %.

    Args:
        rng: The source of randomness.
        values: The truth.

    References:
        Inference and missing data (Rubin, 1976).
    """
    deviation = values.std(axis=(0, 1))
    z = (values - values.mean(axis=(0, 1))) / np.where(deviation > 0, deviation, 1)
    score = rng.uniform(1, 3) * rng.choice([-1, 1]) * z + rng.logistic(size=values.shape)
    return score > np.quantile(score, 1 - rng.uniform(0.05, 0.5))
