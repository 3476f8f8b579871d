r"""Measures the pre-trained weights where the answer is known, on published data, and beside baselines.

    python -m experiments.benchmarks.pretrained rebuild
    python -m experiments.benchmarks.pretrained linear
    python -m experiments.benchmarks.pretrained sbc
    python -m experiments.benchmarks.pretrained aqi36 FOLDER
    python -m experiments.benchmarks.pretrained tables FOLDER
    python -m experiments.benchmarks.pretrained lengths FOLDER

``rebuild`` trains the weights by ``tsgen fit --config pretrain`` and writes them into the package. ``linear``
draws linear-Gaussian networks that no training used, whose exact posterior is known: the excess NLL in nats
per hidden entry, and the root mean square distance of the means in exact posterior deviations, over all nodes
and over those that report at least once (nobody can know the level of another, which the exact law knows).
``sbc`` ranks the truth of one hidden entry of each of many such networks among 100 draws, tests whether the
ranks are uniform, and draws ``docs/images/pretrained_sbc.png``.
``aqi36`` is the published protocol of AQI-36 (FOLDER as for its data module), of which nothing was trained.
``tables`` hides points, runs and outages in pm10_germany, metr_la_10, us_precipitation and flu_germany, and
compares the weights with the baselines, all fitted to what stays visible (FOLDER holds the four folders).
``lengths`` imputes the same hidden entries of simulated networks and of metr_la_10 in windows of 24 to 336
steps; the weights were trained on windows of 24 to 168 steps.

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
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch_geometric.data import Data

from datamodules import AirQualityDataModule
from experiments.benchmarks.harness import arguments
from experiments.figures import IMAGES
from tsgen.counter_random import streams, uniforms
from tsgen.data.channels import without_covariates
from tsgen.data.graphs import from_coordinates, from_correlations, from_edges
from tsgen.data.masks import AnyOf, BlockMask, PointMask, hold_out
from tsgen.data.series import GraphSeries, SeriesBatch
from tsgen.evaluation.calibration import RankTest
from tsgen.evaluation.selfcheck import SelfCheck, who_wins
from tsgen.exact.kalman import smooth
from tsgen.figures import axes_grid, in_style
from tsgen.figures.calibration import draw_histogram
from tsgen.heads import InDataUnits
from tsgen.imputer import draw
from tsgen.metrics import entries, entry_scores, ranks
from tsgen.models import AnyOrderModel, load_pretrained
from tsgen.models.pretrained import WEIGHTS, save_pretrained
from tsgen.report.calibration_figures import draw_difference
from tsgen.sampling import AnyOrder
from tsgen.simulate import NetworkPrior, Simulation

IMAGE = IMAGES / "pretrained_sbc.png"

FIRST, FIRST_RANKED, FIRST_LONG = 2**61, 2**61 + 2**20, 2**61 + 2**21
"""Numbers of the first networks of ``linear``, ``sbc`` and ``lengths``; training uses those from 0 and from
2^62 on."""

ROWS = (288, 1152)
"""Windows times nodes of a network, about: as many as are scored in training, and four times as many."""

DRAWS = 100
"""Draws of each hidden entry."""

LENGTHS = (24, 36, 48, 72, 144, 168, 336)
"""Windows of ``lengths``, in steps."""

LONGEST = 168
"""The longest windows of training, in steps."""

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


def linear_law(model: AnyOrderModel, batch: SeriesBatch) -> InDataUnits:
    """Returns the linear posterior of a model that has adapted, in data units."""
    units = model.units(batch)
    standard = Normal(torch.zeros_like(units.loc), torch.ones_like(units.loc), validate_args=False)
    return InDataUnits(standard, units)


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


def linear_prior(rows: int) -> NetworkPrior:
    """Returns the prior of the linear-Gaussian networks.

    Args:
        rows: Windows times nodes of a network, about.
    """
    return NetworkPrior(
        nodes=(2, 40), channels=(1, 1), steps=(36,), rows=rows, entries=rows * 40, linear_gaussian=True
    )


def exact_law(simulation: Simulation) -> Normal:
    """Returns the exact law of each entry of a linear-Gaussian network given the visible ones."""
    assert simulation.law is not None
    truth, visible = simulation.series[..., 0].double(), simulation.visible[..., 0]
    mean, variance = smooth(simulation.law, truth, visible)
    floor = 1e-6 * simulation.law.initial_covariance.diagonal()[: mean.shape[-1]].sqrt()
    return Normal(mean[..., None], torch.maximum(variance.sqrt(), floor)[..., None], validate_args=False)


def reporting(simulation: Simulation) -> Tensor:
    """Returns which entries are hidden at nodes that report at least once.

    The level of a node that never reports is part of the exact law, and nobody can know it.
    """
    return ~simulation.visible & simulation.visible.any(dim=0).any(dim=0)


@torch.no_grad()
def on_network(model: AnyOrderModel, simulation: Simulation) -> dict[tuple[str, str], Excess]:
    """Returns the errors of model and linear posterior on a linear-Gaussian network.

    Args:
        model: The model that adapts.
        simulation: The network.

    Returns:
        The errors by the nodes and the name of the law; none for nodes without hidden entries.
    """
    batch, truth, exact = simulation.batch(), simulation.series.double(), exact_law(simulation)
    own = model.adapted(batch)
    laws = {"weights": own(batch), "linear posterior": linear_law(own, batch)}
    groups = {"reporting nodes": reporting(simulation), "all nodes": ~simulation.visible}
    return {
        (nodes, name): excess(law, exact, truth, hidden)
        for nodes, hidden in groups.items()
        if hidden.any()
        for name, law in laws.items()
    }


def linear(model: AnyOrderModel, networks: int) -> None:
    """Prints errors on linear-Gaussian networks, by how much of each is visible to the fit.

    Args:
        model: The model that adapts.
        networks: The number of networks.
    """
    for rows in ROWS:
        prior = linear_prior(rows)
        results = [on_network(model, prior.draw(0, FIRST + number)) for number in range(networks)]
        for key in max(results, key=len):
            errors = np.array([result[key] for result in results if key in result])
            nll, distance = errors.T
            error = nll.std(ddof=1) / np.sqrt(len(nll))
            print(
                f"{rows:5} rows, {key[0]:15} {key[1]:17} excess NLL {nll.mean():.4f} +- {error:.4f} (median "
                f"{np.median(nll):.4f}); means within {np.sqrt((distance**2).mean()):.3f} deviations (median "
                f"{np.median(distance):.3f}); {len(nll)} networks",
                flush=True,
            )


def entry_to_rank(simulation: Simulation, number: int) -> tuple[int, int, int, int] | None:
    """Returns window, step, node and channel of a random hidden entry of a node that reports, if any.

    Args:
        simulation: The network.
        number: Fixes the choice.
    """
    candidates = reporting(simulation).nonzero()
    if not len(candidates):
        return None
    place = uniforms(streams(number, torch.tensor([0])), (1,), dtype=torch.float64)[0, 0]
    window, step, node, channel = candidates[int(place * len(candidates))].tolist()
    return window, step, node, channel


@torch.no_grad()
def rank_on_network(model: AnyOrderModel, simulation: Simulation, number: int) -> Tensor | None:
    """Returns the rank of the truth of one hidden entry among draws, or None if nothing is hidden.

    Args:
        model: The model that adapts.
        simulation: The network.
        number: Fixes the entry, the draws and the order of equal values.
    """
    entry = entry_to_rank(simulation, number)
    if entry is None:
        return None
    window, step, node, channel = entry
    batch = simulation.batch()
    # the model adapts to all windows; that of the entry is drawn
    one = batch.rows(slice(window, window + 1))
    drawn = AnyOrder(num_samples=DRAWS, seed=number)(model.adapted(batch), one).values
    noise = uniforms(streams(number, torch.tensor([1])), (1,), dtype=torch.float64)[0]
    return ranks(drawn[:, :, step, node, channel], simulation.series[entry][None], noise)


def simulation_ranks(model: AnyOrderModel, networks: int) -> RankTest:
    """Returns the rank of the truth of one hidden entry of each of some networks, among draws.

    Entries of a network share its law and the fit to it; there is thus one rank per network.

    Args:
        model: The model that adapts.
        networks: The number of networks.
    """
    prior = linear_prior(ROWS[0])
    numbers = range(FIRST_RANKED, FIRST_RANKED + networks)
    found = [rank_on_network(model, prior.draw(0, number), number) for number in numbers]
    return RankTest(("entry",), torch.cat([rank for rank in found if rank is not None])[None].cpu(), DRAWS)


@in_style
def figure_of(test: RankTest) -> Figure:
    """Draws the ranks, and their distribution minus the uniform one."""
    figure, (left, right) = axes_grid(2, 2, 4.2, 2.4)
    found = test.ranks[0].numpy()
    draw_histogram(left, found, test.num_draws)
    draw_difference(right, found, test.num_draws)
    right.set_title(f"p = {test.p_values['entry']:.2g}", loc="right", fontweight="normal")
    for ax in (left, right):
        ax.set_xlabel("place of the truth among the draws")
    return figure


def sbc(model: AnyOrderModel, networks: int, image: Path = IMAGE) -> None:
    """Prints whether the ranks of the truth are uniform, and draws them.

    Args:
        model: The model that adapts.
        networks: The number of networks.
        image: The file of the figure.
    """
    test = simulation_ranks(model, networks)
    place = (test.ranks[0].double() + 0.5) / (test.num_draws + 1)
    inside = float(((place - 0.5).abs() < 0.45).double().mean())
    print(
        f"{len(place)} networks, one hidden entry of each: p = {test.p_values['entry']:.3g} that ranks are "
        f"uniform; mean place of the truth {place.mean():.3f} (0.5 if calibrated), variance times 12 "
        f"{12 * place.var():.3f} (1 if calibrated); {inside:.1%} in the central 90 %"
    )
    figure_of(test).savefig(image, dpi=100)
    print(f"wrote {image}")


def shown(series: GraphSeries, root: Path) -> GraphSeries:
    """Returns the series of AQI-36 with what ``pm25_missing.txt`` shows of it, in all months.

    Args:
        series: The series of ``pm25_ground.txt``.
        root: The folder of the data.
    """
    table = pd.read_csv(root / "pm25_missing.txt", index_col="datetime")[list(series.nodes)]
    there = torch.from_numpy(table.notna().to_numpy())[..., None]
    return series.with_observed(series.observed & there)


@torch.no_grad()
def aqi36(model: AnyOrderModel, root: Path) -> None:
    """Prints the scores of the published protocol of AQI-36, and their cost."""
    torch.manual_seed(0)  # of the draws from the linear posterior
    data = AirQualityDataModule(str(root), window=36, batch_size=16)
    split, start = data.split, time.process_time()
    assert isinstance(split.series, GraphSeries)
    visible = shown(split.series, root)
    own = model.adapted(without_covariates(visible, 0))
    fitted = time.process_time() - start
    for name in ("weights", "linear posterior"):
        collected, start = [], time.process_time()
        for batch in data.test_dataloader():
            batch = without_covariates(batch, 0)
            if name == "weights":
                draws = AnyOrder(num_samples=DRAWS)(own, batch).values
            else:
                law = linear_law(own, batch)
                draws = law.sample(torch.Size([DRAWS]))
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


def compare(
    model: AnyOrderModel, series: GraphSeries, num_samples: int = DRAWS, seed: int = 0
) -> tuple[SelfCheck, float]:
    """Returns the scores of the model and of the baselines on hidden entries, and the model's CPU-seconds.

    Args:
        model: The model that adapts.
        series: The series.
        num_samples: The number of draws.
        seed: Fixes the hidden entries.
    """
    hidden = hold_out(GAPS, series.values, series.observed, seed) & series.observed
    start = time.process_time()
    drawn = draw(model, series.with_observed(series.observed & ~hidden), num_samples)
    seconds = time.process_time() - start
    return who_wins(series, hidden, torch.from_numpy(drawn["imputation"].values)), seconds


def print_tables(model: AnyOrderModel, root: Path, seed: int) -> None:
    """Prints the scores of the model and of the baselines on each table.

    Args:
        model: The model that adapts.
        root: The folder that holds the folders of the data.
        seed: Fixes the hidden entries.
    """
    for name, series in tables(root):
        check, seconds = compare(model, series, seed=seed)
        print(f"{name}: {check.entries:,} hidden entries, {seconds:.0f} CPU-seconds", flush=True)
        for method, scores in check.scores.items():
            print(
                f"    {method:22} MAE {scores['mae']:.4g}, CRPS {scores['crps']:.4g}, 90 % intervals cover "
                f"{scores['coverage_90']:.1%}",
                flush=True,
            )


def by_length(
    model: AnyOrderModel,
    series: GraphSeries,
    hidden: Tensor,
    lengths: tuple[int, ...] = LENGTHS,
    num_samples: int = DRAWS,
) -> dict[int, tuple[float, float]]:
    """Returns CRPS and coverage of 90 % intervals of the same hidden entries, by the length of the windows.

    Args:
        model: The model that adapts; it does so once, for all lengths.
        series: The series; hidden entries are observed there.
        hidden: The entries to hide.
        lengths: The lengths of the windows, in steps.
        num_samples: The number of draws.
    """
    visible = series.with_observed(series.observed & ~hidden)
    own, result = model.adapted(visible), {}
    for length in lengths:
        own.window = length
        drawn = torch.from_numpy(draw(own, visible, num_samples)["imputation"].values)
        scores = entry_scores(drawn[:, hidden], series.values[hidden].to(drawn))
        result[length] = (float(scores["crps"].mean()), float(scores["coverage_90"].mean()))
    return result


def long_series(number: int, steps: int = 4 * max(LENGTHS)) -> tuple[GraphSeries, Tensor]:
    """Returns a long simulated series that no training used, and which of its entries are hidden.

    Args:
        number: The number of the network, from 0.
        steps: The length of the series.
    """
    prior = NetworkPrior(
        nodes=(6, 20), channels=(1, 1), steps=(steps // 4,), windows=4, consecutive=1.0, faults=0.0
    )
    drawn = prior.draw(0, FIRST_LONG + number)
    values = drawn.series.flatten(0, 1).double()
    # in deviations of the series, so that networks count alike
    values = values / values.std().clamp(min=1e-9)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), drawn.graph)
    return series, ~drawn.visible.flatten(0, 1)


def lengths(model: AnyOrderModel, root: Path, networks: int) -> None:
    """Prints scores by the length of the windows, of simulated networks and of metr_la_10.

    Args:
        model: The model that adapts.
        root: The folder that holds the folders of the data.
        networks: The number of simulated networks.
    """
    drawn = [long_series(number) for number in range(networks)]
    found = [by_length(model, series, hidden) for series, hidden in drawn if hidden.any()]
    speed = dict(tables(root))["metr_la_10"]
    hidden = hold_out(GAPS, speed.values, speed.observed, 0) & speed.observed
    of_speed = by_length(model, speed, hidden)
    print(f"{len(found)} simulated networks (CRPS in deviations of the series); metr_la_10 (CRPS in mph)")
    for length in LENGTHS:
        crps, coverage = np.array([scores[length] for scores in found]).T
        change = crps / [scores[LENGTHS[1]][0] for scores in found] - 1
        error = change.std(ddof=1) / np.sqrt(len(change))
        longer = "" if length <= LONGEST else ", longer than trained on"
        relative = f"{change.mean():+.1%} +- {error:.1%}"
        print(
            f"{length:4} steps: simulated CRPS {crps.mean():.4f} ({relative} of that "
            f"of {LENGTHS[1]} steps), 90 % intervals cover {coverage.mean():.1%}; metr_la_10 "
            f"{of_speed[length][0]:.3f}, {of_speed[length][1]:.1%}{longer}",
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
    parts = ["rebuild", "linear", "sbc", "aqi36", "tables", "lengths"]
    parser.add_argument("part", choices=parts)
    parser.add_argument("folder", nargs="?", type=Path, help="of the data, for aqi36, tables and lengths")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="other weights than the package's")
    parser.add_argument(
        "--networks", type=int, help="how many: 100 for linear, 1000 for sbc, 20 for lengths if not given"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes what tables hides")
    options = parser.parse_args()
    if options.part == "rebuild":
        rebuild()
        return
    if options.folder is None and options.part not in ("linear", "sbc"):
        parser.error(f"{options.part} needs the folder of the data")
    model = load_pretrained(options.weights)
    if options.part == "linear":
        linear(model, options.networks or 100)
    elif options.part == "sbc":
        sbc(model, options.networks or 1000)
    elif options.part == "aqi36":
        aqi36(model, options.folder)
    elif options.part == "tables":
        print_tables(model, options.folder, options.seed)
    else:
        lengths(model, options.folder, options.networks or 20)


if __name__ == "__main__":
    main()
