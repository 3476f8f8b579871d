"""Training and sampling speed on each device at hand, and how far their answers differ.

    python -m experiments.benchmarks.devices

Prints, for N = 36, 207 and 2,000 nodes, windows per second of a training step and of ancestral sampling, the
peak memory of a GPU, and on a GPU the largest difference to the CPU: of a log-density (in nats) and of a
drawn value (in standard deviations of the data). Times are medians after a warm-up.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.heads.likelihood import masked_nll
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

STEPS, NEIGHBOURS, HIDDEN = 24, 8, 64


def make(nodes: int, windows: int, samples: int) -> tuple[AutoregressiveModel, SeriesBatch]:
    """A model and a batch of random windows, a third of them hidden, on a random graph."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(nodes).repeat_interleave(NEIGHBOURS)
    source = (target + 1 + torch.arange(NEIGHBOURS).repeat(nodes) * 3) % nodes
    weight = 0.1 + torch.rand(len(target), generator=generator)
    graph = from_edges(source.numpy(), target.numpy(), weight.numpy(), num_nodes=nodes)
    values = torch.randn(STEPS + windows, nodes, 1, generator=generator)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), graph)
    position = torch.arange(STEPS) + torch.arange(windows)[:, None]
    seen = torch.rand(windows, STEPS, nodes, 1, generator=generator) > 1 / 3
    batch = SeriesBatch(values[position], seen, torch.ones_like(seen), graph, position)
    torch.manual_seed(0)
    spec = SeriesSpec.of(series)
    encoder, head = partial(GraphGRUEncoder, hidden=HIDDEN), partial(MixtureHead, components=5)
    return AutoregressiveModel(spec, encoder, head, sampler=Ancestral(samples)), batch


def to(batch: SeriesBatch, device: torch.device) -> SeriesBatch:
    """The batch on a device."""
    fields = {
        name: getattr(batch, name).to(device) for name in ("values", "context", "target", "graph", "position")
    }
    return SeriesBatch(**fields)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median time of some work after a warm-up."""
    times = []
    for _ in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(nodes: int, windows: int, samples: int, device: torch.device) -> str:
    """One row of the table."""
    model, batch = make(nodes, windows, samples)
    there, moved = copy.deepcopy(model).to(device), to(batch, device)
    optimizer = there.configure_optimizers()

    def step() -> None:
        masked_nll(there(moved), moved.values, moved.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = windows / median_seconds(step, device)
    sampling = windows * samples / median_seconds(lambda: there.sampler(there, moved), device)
    row = f"{device.type:6}{nodes:7,}{windows:9}{samples:9}{training:14,.0f}{sampling:18,.0f}"
    if device.type == "cuda":
        there.load_state_dict(model.state_dict())
        few = to(batch.rows(slice(0, 2)), device)
        with torch.no_grad():
            density = (there.log_prob(few).cpu() - model.log_prob(batch.rows(slice(0, 2)))).abs().max()
            model.sampler = there.sampler = Ancestral(2)
            drawn = (
                there.sampler(there, few).values.cpu() - model.sampler(model, batch.rows(slice(0, 2))).values
            ).abs()
        memory = torch.cuda.max_memory_allocated(device) / 2**20
        row += f"{memory:11,.0f}{density:12.1e}{drawn.max():12.1e}"
    return row


def main() -> None:
    """Prints the table."""
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", end="")
    print(f", {torch.cuda.get_device_name()}" if len(devices) > 1 else "")
    print(f"windows of {STEPS} steps, {NEIGHBOURS} edges into a node, hidden {HIDDEN}, mixture of 5")
    print("device  nodes  windows  samples  trained win/s  sampled paths/s  peak MiB  d log p  d draw")
    for nodes, windows, samples in ((36, 32, 20), (207, 16, 10), (2000, 4, 4)):
        for device in devices:
            print(measure(nodes, windows, samples, device), flush=True)


if __name__ == "__main__":
    main()
