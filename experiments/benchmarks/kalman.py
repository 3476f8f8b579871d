"""Measures the time and memory of the exact smoother, and compares its likelihood with that of statsmodels.

    python -m experiments.benchmarks.kalman

The first table is the smoother of a graph VAR of 50 nodes and order 2 with 30 % missing, for series of
growing length, each in a process of its own: seconds, seconds per 1,000 steps, and the peak memory of the
process. Then come the log-likelihoods of tsgen and statsmodels for a model small enough for statsmodels, and
the time that each takes in the same process (medians; statsmodels is a test dependency).
"""

from __future__ import annotations

import time

import numpy as np
import torch

from experiments.benchmarks.harness import arguments, in_a_fresh_process, median_seconds
from tsgen.exact.kalman import kalman_filter, smooth
from tsgen.simulate.examples import geometric_graph, linear_process

LENGTHS = (625, 1250, 2500, 5000)


def windows(nodes: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a simulated series and a mask in which 70 % of the entries are observed."""
    process = linear_process(geometric_graph(nodes, 0), 0)
    values = process.simulate(steps, 0)[None]
    return values, torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) > 0.3


def smoothing_seconds(nodes: int, steps: int) -> float:
    """Smooths one series and returns the seconds that it took."""
    values, observed = windows(nodes, steps)
    state = linear_process(geometric_graph(nodes, 0), 0).state_space()
    start = time.perf_counter()
    smooth(state, values, observed)
    return time.perf_counter() - start


def compare_with_statsmodels(nodes: int = 4, steps: int = 1000) -> None:
    """Prints the log-likelihood of a VAR(2) with 30 % missing from tsgen and statsmodels, and their times."""
    from statsmodels.tsa.statespace.varmax import VARMAX

    process = linear_process(geometric_graph(nodes, 0), 0)
    values, observed = windows(nodes, steps)
    state = process.state_space()
    frame = np.where(observed[0], values[0], np.nan)
    model = VARMAX(frame, order=(2, 0), trend="c")
    coefficients = torch.cat(list(process.coefficients), dim=1).flatten()
    factor = torch.linalg.cholesky(process.covariance)
    lower = factor[torch.tril_indices(nodes, nodes).unbind()]
    parameters = torch.cat([process.intercept, coefficients, lower]).numpy()
    ours = float(kalman_filter(state, values, observed).log_likelihood)
    theirs = float(model.loglike(parameters))
    print(f"log-likelihood, {nodes} nodes, order 2, {steps:,} steps, 30 % missing:")
    print(f"  tsgen {ours:.6f}, statsmodels {theirs:.6f}")
    ours_seconds = median_seconds(lambda: kalman_filter(state, values, observed))
    theirs_seconds = median_seconds(lambda: model.loglike(parameters))
    print(
        f"  tsgen {ours_seconds:.3f} s, statsmodels {theirs_seconds:.3f} s (compiled, one window at a time)"
    )
    many, patterns = values.expand(64, -1, -1), observed.expand(64, -1, -1)
    batch = median_seconds(lambda: kalman_filter(state, many, patterns))
    print(f"  64 windows at once: tsgen {batch:.3f} s, {batch / 64:.4f} s each")


def main() -> None:
    """Prints both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS, help="lengths of the series")
    options = parser.parse_args()
    print(f"smoother, 50 nodes, order 2, 30 % missing, float64, {torch.get_num_threads()} threads")
    print("  steps  seconds  s per 1,000  peak MiB (before)")
    for steps in options.steps:
        seconds, before, peak = in_a_fresh_process(smoothing_seconds, 50, steps)
        print(
            f"{steps:7,}{seconds:9.2f}{1000 * seconds / steps:13.2f}{peak:10,.0f} ({before:,.0f})", flush=True
        )
    compare_with_statsmodels()


if __name__ == "__main__":
    main()
