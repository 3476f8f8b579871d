r"""Measures the pre-trained weights where the answer is known, on published data, and beside baselines.

    python -m experiments.benchmarks.pretrained rebuild
    python -m experiments.benchmarks.pretrained linear
    python -m experiments.benchmarks.pretrained aqi36 FOLDER
    python -m experiments.benchmarks.pretrained tables FOLDER

``rebuild`` trains the weights by ``tsgen fit --config pretrain`` and writes them into the package. ``linear``
draws linear-Gaussian networks that no training used, whose exact posterior is known: the excess NLL in nats
per hidden entry, and the root mean square distance of the means in exact posterior deviations, at nodes that
report at least once (nobody can know the level of another, which the exact law knows); it also draws
``docs/images/pretrained_calibration.png``, the histogram of the truth's probability under the model's laws.
``aqi36`` is the published protocol of AQI-36 (FOLDER as for its data module), of which nothing was trained.
``tables`` hides points, runs and outages in pm10_germany, metr_la_10, us_precipitation and flu_germany, and
compares the weights with the baselines, all fitted to what stays visible (FOLDER holds the four folders).

"linear posterior" is the same model without its network: the law that the network corrects.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch_geometric.data import Data

from datamodules import AirQualityDataModule
from experiments.benchmarks.harness import arguments
from experiments.figures import IMAGES
from tsgen.data.channels import without_covariates
from tsgen.data.graphs import from_coordinates, from_correlations, from_edges
from tsgen.data.masks import AnyOf, BlockMask, PointMask, hold_out
from tsgen.data.series import GraphSeries, SeriesBatch
from tsgen.evaluation.selfcheck import SelfCheck, who_wins
from tsgen.exact.kalman import smooth
from tsgen.figures.calibration import rank_bins
from tsgen.imputer import draw
from tsgen.metrics import entries, entry_scores
from tsgen.models import AnyOrderModel, load_pretrained
from tsgen.models.pretrained import WEIGHTS, save_pretrained
from tsgen.sampling import AnyOrder
from tsgen.simulate import NetworkPrior

IMAGE = IMAGES / "pretrained_calibration.png"

FIRST = 2**61
"""The number of the first network of ``linear``; training uses numbers from 0 and from 2^62 on."""

BINS = 20
"""Bins of the histogram."""

GAPS = AnyOf([PointMask(0.05), BlockMask(0.003, 3, 36), BlockMask(0.01, 1, 6, over="slice")])
"""What ``tables`` hides."""

METR_LA_STEPS = 3000


class Excess(NamedTuple):
    """Errors of a model's laws on one network.

    Attributes:
        nll: Mean of the exact log-density minus the model's over hidden entries, in nats.
        distance: Root mean square distance of the means, in exact posterior deviations.
    """

    nll: float
    distance: float


def linear_law(model: AnyOrderModel, batch: SeriesBatch) -> Normal:
    """Returns the linear posterior of a model that has adapted, in data units."""
    units = model.units(batch)
    return Normal(units.loc, units.scale, validate_args=False)


def excess(law: Distribution, exact: Normal, truth: Tensor, hidden: Tensor) -> Excess:
    """Returns the errors of laws at the hidden entries.

    Args:
        law: The model's laws.
        exact: The exact laws.
        truth: The true values.
        hidden: The hidden entries.
    """
    gap = (exact.log_prob(truth) - law.log_prob(truth))[hidden].mean()
    distance = ((law.mean - exact.mean) / exact.stddev)[hidden].square().mean().sqrt()
    return Excess(float(gap), float(distance))


@torch.no_grad()
def on_network(
    model: AnyOrderModel, prior: NetworkPrior, number: int
) -> tuple[Excess, Excess, list[float]] | None:
    """Returns the errors of model and linear posterior on one network, and probabilities of the truth.

    Args:
        model: The model that adapts.
        prior: A prior of linear-Gaussian networks.
        number: The number of the draw.

    Returns:
        The two errors, and for one hidden entry of each window the probability that the model's law gives to
        values below the truth. None if nothing is hidden.
    """
    simulation = prior.draw(0, number)
    assert simulation.law is not None
    batch, truth = simulation.batch(), simulation.series.double()
    # the level of a node that never reports is part of its law, and nobody can know it
    hidden = ~simulation.visible & simulation.visible.any(dim=0).any(dim=0)
    if not hidden.any():
        return None
    mean, variance = smooth(simulation.law, truth[..., 0], simulation.visible[..., 0])
    floor = 1e-6 * simulation.law.initial_covariance.diagonal()[: mean.shape[-1]].sqrt()
    exact = Normal(mean[..., None], torch.maximum(variance.sqrt(), floor)[..., None], validate_args=False)
    own = model.adapted(batch)
    law = own(batch)
    below = law.cdf(truth)
    chosen = torch.rand(hidden.shape, generator=torch.Generator().manual_seed(number)).where(hidden, -1)
    first = chosen.flatten(1).argmax(dim=1)
    probability = below.flatten(1).gather(1, first[:, None]).squeeze(1)[hidden.flatten(1).any(dim=1)]
    return (
        excess(law, exact, truth, hidden),
        excess(linear_law(own, batch), exact, truth, hidden),
        [*probability.tolist()],
    )


def linear(
    model: AnyOrderModel, networks: int, image: Path | None = IMAGES / "pretrained_calibration.png"
) -> None:
    """Prints errors on linear-Gaussian networks, by how much of each is visible to the fit."""
    probabilities: list[float] = []
    for rows in (288, 1152):
        prior = NetworkPrior(
            nodes=(2, 40), channels=(1, 1), steps=(36,), rows=rows, entries=rows * 40, linear_gaussian=True
        )
        results = [on_network(model, prior, FIRST + number) for number in range(networks)]
        found = [result for result in results if result is not None]
        for name, errors in (("weights", [r[0] for r in found]), ("linear posterior", [r[1] for r in found])):
            nll, distance = (np.array(column) for column in zip(*errors, strict=True))
            error = nll.std(ddof=1) / np.sqrt(len(nll))
            print(
                f"{rows:5} rows  {name:17} excess NLL {nll.mean():.4f} +- {error:.4f} (median "
                f"{np.median(nll):.4f}); means within {np.sqrt((distance**2).mean()):.3f} deviations (median "
                f"{np.median(distance):.3f})",
                flush=True,
            )
        probabilities += [p for r in found for p in r[2]]
    counts = np.histogram(probabilities, BINS, (0, 1))[0]
    print(f"{len(probabilities)} windows; share of probabilities in each of {BINS} bins:")
    print(" ".join(f"{share:.3f}" for share in counts / counts.sum()))
    if image is not None:
        rank_bins(counts, np.full(BINS, 1)).savefig(image)


@torch.no_grad()
def aqi36(model: AnyOrderModel, root: Path) -> None:
    """Prints the scores of the published protocol of AQI-36, and their cost."""
    data = AirQualityDataModule(str(root), window=36, batch_size=16)
    split, start = data.split, time.process_time()
    months = pd.DatetimeIndex(np.asarray(split.series.time)).month
    assert isinstance(split.held_out, Tensor)
    blank = split.held_out & torch.from_numpy(np.isin(months, (3, 6, 9, 12)))[:, None, None]
    assert isinstance(split.series, GraphSeries)
    visible = split.series.with_observed(split.series.observed & ~blank)
    own = model.adapted(without_covariates(visible, 0))
    fitted = time.process_time() - start
    for name in ("weights", "linear posterior"):
        collected, start = [], time.process_time()
        for batch in data.test_dataloader():
            batch = without_covariates(batch, 0)
            if name == "weights":
                draws = AnyOrder(num_samples=100)(own, batch).values
            else:
                law = linear_law(own, batch)
                draws = law.sample(torch.Size([100]))
            drawn, truth = entries(draws, batch)
            error = (drawn.median(dim=0).values - truth).abs()
            collected.append(
                {**entry_scores(drawn, truth), "mae": error, "rmse": error.square(), "size": truth}
            )
        total = {key: torch.cat([scores[key] for scores in collected]).double() for key in collected[0]}
        print(
            f"{name:17} MAE {total['mae'].mean():.2f}, RMSE {total['rmse'].mean().sqrt():.2f}, MRE "
            f"{total['mae'].sum() / total['size'].abs().sum():.2%}, CRPS {total['crps'].mean():.3f}, 90 % "
            f"intervals cover {total['coverage_90'].mean():.1%} of {len(total['mae']):,} entries; "
            f"{fitted + time.process_time() - start:.0f} CPU-seconds",
            flush=True,
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def tables(root: Path) -> Iterator[tuple[str, GraphSeries]]:
    """Yields the four tables by name, as series on a graph."""
    folder = root / "pm10_germany"
    wide = pd.read_csv(folder / "pm10.csv.gz", index_col=0)
    yield (
        "pm10_germany",
        _on_map(wide, pd.read_csv(folder / "stations.csv", dtype={"station": str}), "station"),
    )
    with np.load(root / "metr_la_10" / "metr_la_first10_full.npz") as file:
        speed = file["speed"][:METR_LA_STEPS].astype(float)
        sensors = [str(sensor) for sensor in file["sensor_ids"]]
    yield "metr_la_10", _series(pd.DataFrame(np.where(speed == 0, np.nan, speed), columns=sensors))
    folder = root / "us_precipitation"
    stations = pd.read_csv(folder / "stations.csv", dtype={"node": str})
    yield "us_precipitation", _on_map(_wide(folder / "precipitation.csv.gz"), stations, "node")
    wide = _wide(root / "flu_germany" / "cases.csv.gz")
    edges = pd.read_csv(root / "flu_germany" / "edges.csv", dtype=str)
    source, target = (wide.columns.get_indexer(pd.Index(edges[end])) for end in ("source", "target"))
    yield "flu_germany", _series(wide, from_edges(source, target, num_nodes=len(wide.columns)))


def _wide(path: Path) -> pd.DataFrame:
    long = pd.read_csv(path, dtype={"node": str})
    return long.pivot(index="time", columns="node", values=long.columns[2]).sort_index()


def _on_map(wide: pd.DataFrame, stations: pd.DataFrame, name: str) -> GraphSeries:
    places = stations.set_index(name).loc[list(wide.columns)]
    return _series(wide, from_coordinates(places["latitude"].to_numpy(), places["longitude"].to_numpy()))


def _series(wide: pd.DataFrame, graph: Data | None = None) -> GraphSeries:
    """Returns a table with a column for each node as a series; without a graph, that of the correlations."""
    values = torch.tensor(wide.to_numpy(float))[..., None]
    observed = values.isfinite()
    graph = from_correlations(values, observed) if graph is None else graph
    return GraphSeries(values=values, observed=observed, graph=graph, nodes=list(wide.columns))


def compare(model: AnyOrderModel, series: GraphSeries, num_samples: int = 100) -> tuple[SelfCheck, float]:
    """Returns the scores of the model and of the baselines on hidden entries, and the model's CPU-seconds.

    Args:
        model: The model that adapts.
        series: The series.
        num_samples: The number of draws.
    """
    hidden = hold_out(GAPS, series.values, series.observed, 0) & series.observed
    start = time.process_time()
    drawn = draw(model, series.with_observed(series.observed & ~hidden), num_samples)
    seconds = time.process_time() - start
    return who_wins(series, hidden, torch.from_numpy(drawn["imputation"].values)), seconds


def print_tables(model: AnyOrderModel, root: Path) -> None:
    """Prints the scores of the model and of the baselines on each table."""
    for name, series in tables(root):
        check, seconds = compare(model, series)
        print(f"{name}: {check.entries:,} hidden entries, {seconds:.0f} CPU-seconds", flush=True)
        for method, scores in check.scores.items():
            print(
                f"    {method:22} MAE {scores['mae']:.4g}, CRPS {scores['crps']:.4g}, 90 % intervals cover "
                f"{scores['coverage_90']:.1%}",
                flush=True,
            )


def rebuild() -> None:
    """Trains the weights and writes them into the package."""
    subprocess.run([sys.executable, "-m", "tsgen", "fit", "--config", "pretrain"], check=True)
    save_pretrained(Path("runs") / "pretrain" / "checkpoints" / "last.ckpt", WEIGHTS)
    print(f"wrote {WEIGHTS}")


def main() -> None:
    """Runs one part."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=["rebuild", "linear", "aqi36", "tables"])
    parser.add_argument("folder", nargs="?", type=Path, help="the folder of the data, for aqi36 and tables")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="other weights than the package's")
    parser.add_argument("--networks", type=int, default=100, help="the number of networks of linear")
    options = parser.parse_args()
    if options.part == "rebuild":
        rebuild()
        return
    model = load_pretrained(options.weights)
    if options.part == "linear":
        linear(model, options.networks)
    elif options.folder is None:
        parser.error(f"{options.part} needs the folder of the data")
    elif options.part == "aqi36":
        aqi36(model, options.folder)
    else:
        print_tables(model, options.folder)


if __name__ == "__main__":
    main()
