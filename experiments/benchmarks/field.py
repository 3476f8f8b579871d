"""``tsgen impute``, untouched, on tables that nothing was tuned for, beside all baselines.

    python -m experiments.benchmarks.field FOLDER
    python -m experiments.benchmarks.field FOLDER --only pm10_germany --minutes 0

Each table is written to a file without some of its measured values: single ones, runs of 3 to 36 steps, and
outages of the network. The command reads the file (with coordinates or edges, where they are known), trains
as long as it finds that training helps, and imputes. The baselines are fitted to the same file. All are
scored on the values that were taken out, which nothing else has seen. The CPU time is that of the whole
command, with its check on hidden values.

FOLDER holds the folders aqi36, pm10_germany, metr_la_10, us_precipitation and flu_germany. Three more tables
are simulated: a network with two regimes and bimodal noise, counts whose rate depends on those of the
neighbours, and a smooth field of daily temperatures with a season, measured to 0.1 degrees.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from experiments.benchmarks.harness import arguments
from experiments.benchmarks.pretrained import GAPS, METR_LA_STEPS
from tsgen.data.masks import hold_out
from tsgen.data.series import GraphSeries
from tsgen.datamodules import SyntheticDataModule
from tsgen.datamodules.synthetic import Process
from tsgen.evaluation.selfcheck import MODEL, SelfCheck, who_wins
from tsgen.imputer import graph_of
from tsgen.readers.layouts import read_table
from tsgen.readers.tables import open_table

SEED = 20
"""Fixes what is taken out of the tables."""


class FieldTable(NamedTuple):
    """A table with a column for each node, and what is known of the graph.

    Attributes:
        values: The values, by time and node.
        coordinates: Latitude and longitude of the nodes, if known.
        edges: Source, target and weight of the edges, if known.
    """

    values: pd.DataFrame
    coordinates: pd.DataFrame | None = None
    edges: pd.DataFrame | None = None


def aqi36(root: Path) -> FieldTable:
    """Returns two winter months of hourly PM2.5 in Beijing, as the published file with gaps shows them."""
    values = pd.read_csv(root / "aqi36" / "pm25_missing.txt", index_col="datetime", parse_dates=True)
    places = pd.read_csv(root / "aqi36" / "pm25_latlng.txt", dtype={"sensor_id": str})
    return FieldTable(values.loc["2014-12-01":"2015-01-31"], places.rename(columns={"sensor_id": "node"}))


def pm10_germany(root: Path) -> FieldTable:
    """Returns daily PM10 at German stations."""
    values = pd.read_csv(root / "pm10_germany" / "pm10.csv.gz", index_col=0)
    places = pd.read_csv(root / "pm10_germany" / "stations.csv", dtype={"station": str})
    return FieldTable(values, places.rename(columns={"station": "node"}))


def metr_la_10(root: Path) -> FieldTable:
    """Returns speeds of ten sensors every five minutes, without a graph."""
    with np.load(root / "metr_la_10" / "metr_la_first10_full.npz") as file:
        speed = file["speed"][:METR_LA_STEPS].astype(float)
        sensors = [str(sensor) for sensor in file["sensor_ids"]]
    time = pd.date_range("2012-03-01", periods=len(speed), freq="5min")
    return FieldTable(pd.DataFrame(np.where(speed == 0, np.nan, speed), time, sensors))


def _long(path: Path) -> pd.DataFrame:
    """Returns a long table with a column for each node."""
    long = pd.read_csv(path, dtype={"node": str})
    return long.pivot(index="time", columns="node", values=long.columns[2]).sort_index()


def us_precipitation(root: Path) -> FieldTable:
    """Returns daily rain at American stations."""
    folder = root / "us_precipitation"
    return FieldTable(
        _long(folder / "precipitation.csv.gz"), pd.read_csv(folder / "stations.csv", dtype={"node": str})
    )


def flu_germany(root: Path) -> FieldTable:
    """Returns weekly cases of influenza in German districts."""
    folder = root / "flu_germany"
    return FieldTable(_long(folder / "cases.csv.gz"), edges=pd.read_csv(folder / "edges.csv", dtype=str))


def _simulated(process: Process, steps: int) -> FieldTable:
    """Returns a simulated series with the edges of its graph."""
    series = SyntheticDataModule(process, num_nodes=20, steps=steps, process_seed=SEED).split.series
    assert isinstance(series, GraphSeries)
    values = torch.where(series.observed, series.values, torch.nan)[..., 0].numpy()
    nodes = [f"n{node}" for node in range(len(series.nodes))]
    ends = np.array(nodes)[series.graph.edge_index.numpy()]
    edges = pd.DataFrame({"source": ends[0], "target": ends[1], "weight": series.graph.edge_weight.numpy()})
    time = pd.date_range("2024-01-01", periods=steps, freq="h")
    return FieldTable(pd.DataFrame(values, time, nodes), edges=edges)


def two_regimes(root: Path) -> FieldTable:
    """Returns a network with two regimes and bimodal noise."""
    return _simulated("threshold", 1500)


def rates(root: Path) -> FieldTable:
    """Returns counts whose rate depends on those of the neighbours."""
    return _simulated("poisson", 1500)


def temperatures(root: Path) -> FieldTable:
    """Returns a smooth field of daily temperatures with a season, measured to 0.1 degrees."""
    generator, nodes, steps = np.random.default_rng(SEED), 60, 1000
    latitude, longitude = 45 + 5 * generator.random(nodes), 5 + 8 * generator.random(nodes)
    height = 1500 * generator.random(nodes) ** 3
    north = 111 * (latitude[:, None] - latitude)
    east = 78 * (longitude[:, None] - longitude)
    near, far = (np.exp(-np.hypot(north, east) / reach) for reach in (150.0, 800.0))
    root_near, root_far = (np.linalg.cholesky(x + 1e-9 * np.eye(nodes)) for x in (near, far))
    weather, field = np.zeros(nodes), []
    for _ in range(steps):
        noise = generator.standard_normal((2, nodes))
        weather = 0.75 * weather + 2.2 * root_far @ noise[0] + 1.2 * root_near @ noise[1]
        field.append(weather)
    season = np.cos(2 * np.pi * (np.arange(steps) - 200) / 365.25)
    amplitude = 9 + 0.3 * (longitude - 5)
    level = 12 - 0.7 * (latitude - 47) - 0.0065 * height
    values = level + season[:, None] * amplitude + np.array(field)
    values = np.round(values + 0.3 * generator.standard_normal(values.shape), 1)
    names = [f"s{node:02}" for node in range(nodes)]
    places = pd.DataFrame({"node": names, "latitude": latitude, "longitude": longitude})
    return FieldTable(pd.DataFrame(values, pd.date_range("2020-01-01", periods=steps), names), places)


TABLES: dict[str, Callable[[Path], FieldTable]] = {
    read.__name__: read
    for read in (
        aqi36,
        pm10_germany,
        metr_la_10,
        us_precipitation,
        flu_germany,
        two_regimes,
        rates,
        temperatures,
    )
}
"""What reads or simulates each table."""


def without(values: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns a table without some of its values: single ones, runs and outages.

    Args:
        values: The table.
        seed: Fixes what is taken out.
    """
    truth = torch.from_numpy(values.to_numpy(float))[..., None]
    observed = truth.isfinite()
    hidden = hold_out(GAPS, truth, observed, seed) & observed
    hidden &= (observed & ~hidden).any(dim=0)
    return values.mask(hidden[..., 0].numpy())


def imputed(
    table: FieldTable, shown: pd.DataFrame, folder: Path, options: list[str]
) -> tuple[SelfCheck, float]:
    """Returns the scores of ``tsgen impute`` and of the baselines, and the CPU-seconds of the command.

    Args:
        table: The table.
        shown: The table without the values to impute.
        folder: Where files are written.
        options: More options of the command.
    """
    shown.to_csv(folder / "series.csv", index_label="time")
    places = {}
    for name, frame in (("coordinates", table.coordinates), ("edges", table.edges)):
        if frame is not None:
            frame.to_csv(folder / f"{name}.csv", index=False)
            places[name] = folder / f"{name}.csv"
    given = [f"--{name}={path}" for name, path in places.items()]
    command = [sys.executable, "-m", "tsgen", "impute", str(folder / "series.csv"), *given, *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [*command, f"--out={folder / 'out'}"],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    reading = read_table(open_table(folder / "series.csv"))
    series = reading.series(graph_of(reading.contents, **places)[0])
    with xr.open_dataset(folder / "out" / "imputation.nc") as file:
        draws = torch.from_numpy(file["imputation"].transpose("sample", "time", "node", "channel").values)
    full = table.values.reindex(columns=reading.contents.nodes).to_numpy(float)
    truth = torch.from_numpy(full)[..., None]
    hidden = truth.isfinite() & ~series.observed
    series.values = torch.where(hidden, truth, series.values)
    return who_wins(series.with_observed(series.observed | hidden), hidden, draws), seconds


def rows(name: str, check: SelfCheck, seconds: float) -> Iterator[str]:
    """Yields the rows of a table of results.

    Args:
        name: The name of the table.
        check: The scores.
        seconds: The CPU-seconds of the command.
    """
    others = {method: scores for method, scores in check.scores.items() if method != MODEL}
    yield f"{name}: {check.entries:,} values, {seconds / 60:.1f} CPU-minutes"
    for method, scores in sorted(check.scores.items(), key=lambda item: item[1]["crps"]):
        mine = "tsgen impute" if method == MODEL else method
        yield (
            f"    {mine:24} CRPS {scores['crps']:.4g}, MAE {scores['mae']:.4g}, 90 % intervals cover "
            f"{scores['coverage_90']:.1%}"
        )
    for key, heading in (("crps", "CRPS"), ("mae", "MAE")):
        method = min(others, key=lambda one: others[one][key])
        gain = 1 - check.scores[MODEL][key] / others[method][key]
        yield f"    {heading} {gain:+.1%} below the best baseline, {method}"


def main() -> None:
    """Runs the tables and prints the scores."""
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="holds the folders of the data")
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES), help="some tables")
    parser.add_argument("--seed", type=int, default=SEED, help="fixes what is taken out of the tables")
    options, more = parser.parse_known_args()
    for name in options.only:
        table = TABLES[name](options.folder)
        with tempfile.TemporaryDirectory() as folder:
            check, seconds = imputed(table, without(table.values, options.seed), Path(folder), more)
        print("\n".join(rows(name, check, seconds)), flush=True)


if __name__ == "__main__":
    main()
