"""Time and memory of the exact smoother, and its likelihood beside that of statsmodels.

    python -m experiments.benchmarks.kalman

First the smoother of a graph VAR of 50 nodes and order 2 with 30 % missing, over series of growing length,
each in a process of its own: seconds, seconds per 1,000 steps, and the process' peak memory. Then the
log-likelihood of a size that statsmodels can do, from both, and the time of both in the same process
(medians; statsmodels is a test dependency).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from tsgen.datamodules.synthetic import geometric_graph, linear_process
from tsgen.exact.kalman import kalman_filter, smooth


def windows(nodes: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A simulated series with 30 % missing."""
    process = linear_process(geometric_graph(nodes, 0), 0)
    values = process.simulate(steps, 0)[None]
    return values, torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) > 0.3


def measure(nodes: int, steps: int, results: multiprocessing.Queue) -> None:
    """Smooths one series and reports seconds and MiB."""
    values, seen = windows(nodes, steps)
    state = linear_process(geometric_graph(nodes, 0), 0).state_space()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    smooth(state, values, seen)
    seconds = time.perf_counter() - start
    results.put((seconds, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Prints both tables."""
    print(f"smoother, 50 nodes, order 2, 30 % missing, float64, {torch.get_num_threads()} threads")
    print("  steps  seconds  s per 1,000  peak MiB (of which before)")
    spawn = multiprocessing.get_context("spawn")
    for steps in (625, 1250, 2500, 5000):
        results = spawn.Queue()
        process = spawn.Process(target=measure, args=(50, steps, results))
        process.start()
        seconds, before, peak = results.get()
        process.join()
        print(
            f"{steps:7,}{seconds:9.2f}{1000 * seconds / steps:13.2f}{peak:10,.0f} ({before:,.0f})", flush=True
        )
    beside_statsmodels()


def beside_statsmodels(nodes: int = 4, steps: int = 1000) -> None:
    """The log-likelihood of a VAR(2) with 30 % missing, from both."""
    from statsmodels.tsa.statespace.varmax import VARMAX

    process = linear_process(geometric_graph(nodes, 0), 0)
    values, seen = windows(nodes, steps)
    state = process.state_space()
    frame = np.where(seen[0], values[0], np.nan)
    model = VARMAX(frame, order=(2, 0), trend="c")
    coefficients = torch.cat(list(process.coefficients), dim=1).flatten()
    factor = torch.linalg.cholesky(process.covariance)
    lower = factor[torch.tril_indices(nodes, nodes).unbind()]
    parameters = torch.cat([process.intercept, coefficients, lower]).numpy()
    ours = float(kalman_filter(state, values, seen).log_likelihood)
    theirs = float(model.loglike(parameters))
    print(f"log-likelihood, {nodes} nodes, order 2, {steps:,} steps, 30 % missing:")
    print(f"  ours {ours:.6f}, statsmodels {theirs:.6f}")
    mine = median_seconds(lambda: kalman_filter(state, values, seen))
    other = median_seconds(lambda: model.loglike(parameters))
    print(f"  ours {mine:.3f} s, statsmodels {other:.3f} s (compiled, one window at a time)")
    many, patterns = values.expand(64, -1, -1), seen.expand(64, -1, -1)
    batch = median_seconds(lambda: kalman_filter(state, many, patterns))
    print(f"  64 windows at once: ours {batch:.3f} s, {batch / 64:.4f} s each")


if __name__ == "__main__":
    main()
