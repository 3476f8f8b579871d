r"""What samplers cost: a hundred samples of one pass, and ancestral sampling beside its matrix products.

    python -m experiments.benchmarks.sampling [FOLDER]

First, CPU-seconds for 100 samples of 82 windows of 36 steps and 36 nodes from one pass of the any-order model
of ``aqi36_any_order``, with random weights: the windows of the AQI-36 test if FOLDER holds the data set, else
a synthetic series of the same size with as much hidden.

Then ancestral sampling over time by an ``AutoregressiveModel`` as it comes (a graph recurrence, hidden 64, 3
Gaussians an entry), at 36 and 207 nodes, beside the matrix products in it alone. Those are all dense and
sparse products of encoder and head, for all rows and steps: they are recorded while windows are drawn
(shapes, strides, layout) and then done again by themselves, on tensors of the same form. The two are timed in
turn in one process; the table has the medians and the median of their ratios.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import AirQualityDataModule
from experiments.benchmarks.devices import make
from tsgen.cli.configs import find
from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.models.density import BUILDING_BLOCKS
from tsgen.sampling import Ancestral, AnyOrder
from tsgen.storage.components import restore

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "_sparse_mm", "_addmm_activation", "linear", "matmul")
"""The operations that multiply matrices."""

REPEATS = 7


class Products(TorchDispatchMode):
    """Records the matrix products inside, to be done again by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes a product, and does whatever is asked for."""
        if func.overloadpacket.__name__ in PRODUCTS:
            # the weights are kept, and what is multiplied with them is forgotten but for its form
            self.calls.append((func, tuple(_form(x) for x in args), kwargs or {}))
        return func(*args, **(kwargs or {}))

    def again(self) -> None:
        """All products once more, on one tensor for each form."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


_FORMS: dict[tuple, torch.Tensor] = {}


def _form(x: Any) -> Any:
    """A tensor of the same shape, strides and type; one for all that are alike. Sparse ones as they are."""
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return x
    key = (tuple(x.shape), x.stride(), x.dtype)
    if key not in _FORMS:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        _FORMS[key] = torch.rand(reach, dtype=x.dtype).as_strided(x.shape, x.stride())
    return _FORMS[key]


def any_order_windows(folder: str | None) -> tuple[AnyOrderModel, SeriesBatch]:
    """The model of ``aqi36_any_order`` with random weights, and the windows of its test."""
    options = yaml.safe_load(find("aqi36_any_order").read_text("utf-8"))["model"]["init_args"]
    if folder:
        data = AirQualityDataModule(folder)
        dataset = data.dataset("test")
        batch, spec = dataset.__getitems__([(0, n) for n in range(len(dataset))]), data.spec
    else:
        _, batch = make(36, 82, 1)
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(82, 36, 36, 1, generator=generator)
        seen = torch.rand(values.shape, generator=generator) > 0.3
        position = 36 * torch.arange(82)[:, None] + torch.arange(36)
        graph = from_edges(*batch.graph.edge_index.numpy(), batch.graph.edge_weight.numpy(), num_nodes=36)
        covariates = torch.randn(82, 36, 36, 4, generator=generator)
        batch = SeriesBatch(values, seen, ~seen, graph, position, covariates)
        flat = [x.flatten(0, 1) for x in (values, torch.ones_like(seen), covariates)]
        spec = SeriesSpec.of(GraphSeries(flat[0], flat[1], graph, flat[2]))
    torch.manual_seed(0)
    parts = {name: options[name] for name in ("encoder", "head")}
    parts["encoder"]["init_args"]["convolution"].setdefault("init_args", {})
    made = restore(parts, BUILDING_BLOCKS)
    model = AnyOrderModel(
        spec, **made, units=options["units"], node_embedding=options["node_embedding"], sampler=AnyOrder(100)
    )
    return model.eval(), batch


def one_pass(folder: str | None) -> None:
    """Prints what 100 samples of all windows cost."""
    model, batch = any_order_windows(folder)
    for groups in (1, 2):
        model.sampler = AnyOrder(100 if groups == 1 else 10, groups=groups)
        start, cpu = time.perf_counter(), time.process_time()
        shape = list(model.sampler(model, batch).values.shape)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{groups} group{'s' * (groups > 1)}, {shape}: {cpu:.1f} CPU-seconds, {wall:.1f} s", flush=True)


def ancestral(nodes: int, windows: int, samples: int) -> str:
    """One row of the second table."""
    random, batch = make(nodes, windows, samples)
    model = AutoregressiveModel(random.spec, sampler=Ancestral(samples)).eval()
    with Products() as products:
        model.sampler(model, batch)
    pairs = [(seconds(lambda: model.sampler(model, batch)), seconds(products.again)) for _ in range(REPEATS)]
    whole, alone = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    ratio = statistics.median(a / b for a, b in pairs[1:])
    return f"{nodes:7}{windows * samples:8}{len(products.calls):10}{whole:10.3f}{alone:19.3f}{ratio:8.2f}"


@torch.no_grad()
def seconds(work: Callable[[], object]) -> float:
    """CPU-seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Prints both tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    one_pass(sys.argv[1] if len(sys.argv) > 1 else None)
    print("ancestral sampling of 24 steps, CPU-seconds, medians of", REPEATS - 1)
    print("  nodes    rows  products  sampling  its products alone   ratio")
    for nodes, windows, samples in ((36, 8, 100), (207, 4, 40)):
        print(ancestral(nodes, windows, samples), flush=True)


if __name__ == "__main__":
    main()
