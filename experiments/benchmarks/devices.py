"""Measures training and sampling speed on each available device, and the difference of their results.

    python -m experiments.benchmarks.devices

Prints, for N = 36, 207 and 2,000 nodes, windows per second of a training step and of ancestral sampling, the
peak memory of a GPU, and on a GPU the largest difference to the CPU: of a log-density (in nats) and of a
drawn value (in standard deviations of the data). Times are medians after a warm-up.
"""

from __future__ import annotations

import copy
from functools import partial

import torch

from experiments.benchmarks.harness import (
    HIDDEN,
    NEIGHBOURS,
    STEPS,
    arguments,
    median_seconds,
    random_problem,
    synchronised,
)
from tsgen.data.series import SeriesBatch
from tsgen.heads.likelihood import masked_nll
from tsgen.sampling import Ancestral


def to(batch: SeriesBatch, device: torch.device) -> SeriesBatch:
    """Returns the batch on a device."""
    fields = {
        name: getattr(batch, name).to(device) for name in ("values", "context", "target", "graph", "position")
    }
    return SeriesBatch(**fields)


def measure(nodes: int, windows: int, samples: int, device: torch.device) -> str:
    """Returns one row of the table."""
    model, batch = random_problem(nodes, windows, samples)
    moved_model, moved = copy.deepcopy(model).to(device), to(batch, device)
    optimizer = moved_model.configure_optimizers()
    seconds = partial(median_seconds, clock=partial(synchronised, device), warm_up=2)

    def step() -> None:
        masked_nll(moved_model(moved), moved.values, moved.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = windows / seconds(step)
    sampling = windows * samples / seconds(lambda: moved_model.sampler(moved_model, moved))
    row = f"{device.type:6}{nodes:7,}{windows:9}{samples:9}{training:14,.0f}{sampling:18,.0f}"
    if device.type == "cuda":
        moved_model.load_state_dict(model.state_dict())
        on_device, on_cpu = to(batch.rows(slice(0, 2)), device), batch.rows(slice(0, 2))
        with torch.no_grad():
            density = (moved_model.log_prob(on_device).cpu() - model.log_prob(on_cpu)).abs().max()
            model.sampler = moved_model.sampler = Ancestral(2)
            drawn = (
                moved_model.sampler(moved_model, on_device).values.cpu() - model.sampler(model, on_cpu).values
            ).abs()
        memory = torch.cuda.max_memory_allocated(device) / 2**20
        row += f"{memory:11,.0f}{density:12.1e}{drawn.max():12.1e}"
    return row


def main() -> None:
    """Prints the table."""
    arguments(__doc__).parse_args()
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", end="")
    print(f", {torch.cuda.get_device_name()}" if len(devices) > 1 else "")
    print(f"windows of {STEPS} steps, {NEIGHBOURS} edges into each node, hidden {HIDDEN}, mixture of 5")
    print("device  nodes  windows  samples  trained win/s  sampled paths/s  peak MiB  d log p  d draw")
    for nodes, windows, samples in ((36, 32, 20), (207, 16, 10), (2000, 4, 4)):
        for device in devices:
            print(measure(nodes, windows, samples, device), flush=True)


if __name__ == "__main__":
    main()
