r"""Measures the cost of samplers: samples from one pass, and ancestral sampling beside its matrix products.

    python -m experiments.benchmarks.sampling [FOLDER]

The first lines are the CPU-seconds for 100 samples of 82 windows of 36 steps and 36 nodes from one pass of
the any-order model of ``aqi36_any_order``, with random weights. The windows are those of the AQI-36 test if
FOLDER holds the data set, else a synthetic series of the same size, 30 % of it hidden.

The table is ancestral sampling over time by an ``AutoregressiveModel`` with its default encoder and head (a
graph recurrence, hidden 64, 3 Gaussians per entry), at 36 and 207 nodes, and the matrix products in it alone.
Those are all dense and sparse products of encoder and head, for all rows and steps: they are recorded while
windows are drawn (shapes, strides, layout) and then repeated by themselves, on tensors of the same form. The
two are timed in turn in one process; the table has the medians and the median of their ratios.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import yaml
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import AirQualityDataModule
from experiments.benchmarks.harness import all_windows, arguments, random_problem, timed
from tsgen.cli.configs import find
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.models.density import BUILDING_BLOCKS
from tsgen.sampling import Ancestral, AnyOrder
from tsgen.storage.components import restore

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "_sparse_mm", "_addmm_activation", "linear", "matmul")
"""The operations that multiply matrices."""

REPEATS = 6


class Products(TorchDispatchMode):
    """Records the matrix products inside the context, so that they can be repeated by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[OpOverload, tuple[object, ...], Mapping[str, object]]] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Records a product, and runs every operation."""
        if func.overloadpacket.__name__ in PRODUCTS:
            # dense tensors are replaced by one per form, so that recording needs little memory
            self.calls.append((func, tuple(_form(x) for x in args), kwargs or {}))
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def repeat(self) -> None:
        """Repeats all products, on one tensor for each form."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


_FORMS: dict[tuple[object, ...], torch.Tensor] = {}


def _form(x: object) -> object:
    """Returns a placeholder of the same shape, strides and type, shared by all tensors of this form.

    Sparse tensors and other objects are returned unchanged.
    """
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return x
    key = (tuple(x.shape), x.stride(), x.dtype)
    if key not in _FORMS:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        _FORMS[key] = torch.rand(reach, dtype=x.dtype).as_strided(x.shape, x.stride())
    return _FORMS[key]


def any_order_windows(folder: str | None) -> tuple[AnyOrderModel, SeriesBatch]:
    """Returns the model of ``aqi36_any_order`` with random weights, and the windows of its test."""
    options = yaml.safe_load(find("aqi36_any_order").read_text("utf-8"))["model"]["init_args"]
    if folder:
        data = AirQualityDataModule(folder)
        batch, spec = all_windows(data, "test"), data.spec
    else:
        _, small = random_problem(36, 82, 1)
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(82, 36, 36, 1, generator=generator)
        context = torch.rand(values.shape, generator=generator) > 0.3
        position = 36 * torch.arange(82)[:, None] + torch.arange(36)
        covariates = torch.randn(82, 36, 36, 4, generator=generator)
        batch = SeriesBatch(values, context, ~context, small.graph, position, covariates)
        flat = [x.flatten(0, 1) for x in (values, torch.ones_like(context), covariates)]
        spec = SeriesSpec.of(GraphSeries(flat[0], flat[1], small.graph, flat[2]))
    torch.manual_seed(0)
    blocks = {name: options[name] for name in ("encoder", "head")}
    blocks["encoder"]["init_args"]["convolution"].setdefault("init_args", {})
    restored = restore(blocks, BUILDING_BLOCKS)
    model = AnyOrderModel(
        spec,
        **restored,
        units=options["units"],
        node_embedding=options["node_embedding"],
        sampler=AnyOrder(100),
    )
    return model.eval(), batch


def one_pass(folder: str | None) -> None:
    """Prints the cost of samples of all windows: 100 in one group, and 10 in two."""
    model, batch = any_order_windows(folder)
    for groups in (1, 2):
        model.sampler = AnyOrder(100 if groups == 1 else 10, groups=groups)
        start, cpu = time.perf_counter(), time.process_time()
        shape = list(model.sampler(model, batch).values.shape)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{groups} group{'s' * (groups > 1)}, {shape}: {cpu:.1f} CPU-seconds, {wall:.1f} s", flush=True)


def ancestral(nodes: int, windows: int, samples: int) -> str:
    """Returns one row of the table."""
    random, batch = random_problem(nodes, windows, samples)
    model = AutoregressiveModel(random.spec, sampler=Ancestral(samples)).eval()
    with Products() as products:
        model.sampler(model, batch)
    seconds = timed([lambda: model.sampler(model, batch), products.repeat], REPEATS, time.process_time)
    whole, alone = np.median(seconds, axis=0)
    ratio = np.median(seconds[:, 0] / seconds[:, 1])
    return f"{nodes:7}{windows * samples:8}{len(products.calls):10}{whole:10.3f}{alone:19.3f}{ratio:8.2f}"


def main() -> None:
    """Prints the cost of one pass and the table."""
    parser = arguments(__doc__)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="the folder of the AQI-36 data set")
    folder = parser.parse_args().folder
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    one_pass(folder)
    print("ancestral sampling of 24 steps, CPU-seconds, medians of", REPEATS)
    print("  nodes    rows  products  sampling     products alone   ratio")
    for nodes, windows, samples in ((36, 8, 100), (207, 4, 40)):
        print(ancestral(nodes, windows, samples), flush=True)


if __name__ == "__main__":
    main()
