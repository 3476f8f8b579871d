"""Air quality in Beijing: PM2.5 at 36 stations, with the protocol of the imputation papers (AQI-36)."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from tsgen.data.graphs import from_coordinates
from tsgen.data.masks import AnyOf, BlockMask, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, calendar
from tsgen.readers.downloads import check_source, digest_of, fetch_missing
from tsgen.storage.display import quoted

logger = logging.getLogger(__name__)

FORMAT = "%Y/%m/%d %H:%M:%S"
TEST_MONTHS = (3, 6, 9, 12)
TARGET_ENTRIES = 20_434
CHECKSUMS = {
    "pm25_ground.txt": "8f77b738ae4c50621705a308e606e6229564ad7ad20358986bd6031355f0ab5f",
    "pm25_missing.txt": "3f991eab5bbc5e644e61360e6b71ce45179c86cf650b3bb9a53771d8f9953fe3",
    "pm25_latlng.txt": "a7423dafe4ecdec5ba04b4b6b047a53df1b9c04aed0a2957f1c698761715d7c1",
}
"""The published files and their SHA-256, which downloads must have."""


class AirQualityDataModule(SeriesDataModule):
    r"""Hourly PM2.5 in µg/m³ at 36 stations in Beijing, 2014-05-01 to 2015-04-30 (the data set AQI-36).

    The protocol is that of CSDI and PriSTI. March, June, September and December are the test months. The
    20,434 entries of these months that ``pm25_ground.txt`` contains and ``pm25_missing.txt`` does not are
    scored. Test windows do not overlap, except that the last window of a month may overlap with its
    predecessor; the entries that they share are scored once. In each of the other eight months the last tenth
    is for validation and the rest for training. The graph is that of GRIN: a Gaussian kernel of the distances
    in km, with their standard deviation as length scale, and weights below 0.1 dropped. Covariates: hour of
    day and day of week, each as a point on a circle.

    Args:
        root: Folder with ``pm25_ground.txt``, ``pm25_missing.txt`` and ``pm25_latlng.txt``.
        held_out: Entries that are hidden and scored in validation; by default single entries and failures of
            3 to 36 hours.
        window: Length of a window, in hours.
        predict_on: The split that ``predict`` imputes, or the whole year.
        url: Address of a folder on the web with these files: the files that ``root`` lacks are downloaded
            from it and must have the published checksums.
        options: Options of every data module, such as ``stride``: see
            :class:`~tsgen.datamodules.windows.SeriesDataModule`.

    Raises:
        ValueError: If a file is missing, damaged or not the published one.

    References:
        Filling the g_ap_s: multivariate time series imputation by graph neural networks (Cini et al., 2022);
        CSDI (Tashiro et al., 2021); PriSTI (Liu et al., 2023).
    """

    def __init__(
        self,
        root: str,
        held_out: Mask | None = None,
        window: int = 36,
        predict_on: Literal["train", "val", "test", "all"] = "test",
        url: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(window=window, predict_on=predict_on, **options)
        check_source(url)
        self.root, self.url = Path(root), url
        self.held_out = held_out or AnyOf([PointMask(0.05), BlockMask(0.01, 3, 36)])

    def load(self) -> Split:
        """Reads the three files, downloading missing ones, and splits the year by months."""
        fetch_missing(self.root, CHECKSUMS, self.url, CHECKSUMS)
        ground = _read(self.root / "pm25_ground.txt", "datetime")
        incomplete = _read(self.root / "pm25_missing.txt", "datetime")
        stations = _read(self.root / "pm25_latlng.txt", "sensor_id")
        if list(ground.columns) != list(incomplete.columns) or list(ground.columns) != list(stations.index):
            raise ValueError(f"the three files in {self.root} must list the same stations in the same order.")
        time = _times(self.root / "pm25_ground.txt", ground)
        if not time.equals(_times(self.root / "pm25_missing.txt", incomplete)):
            raise ValueError(
                f"pm25_ground.txt and pm25_missing.txt in {self.root} must have the same hours; they have "
                f"{len(ground):,} and {len(incomplete):,}. One of them may be truncated: download it again."
            )
        values = torch.from_numpy(ground.to_numpy(np.float32, copy=True))[..., None]
        series = GraphSeries(
            values=values,
            observed=torch.isfinite(values),
            graph=from_coordinates(stations["latitude"].to_numpy(), stations["longitude"].to_numpy()),
            covariates=calendar(time, len(stations)),
            time=time.values,
            nodes=list(ground.columns),
            channels=["PM2.5"],
            units=["µg/m³"],
            covariate_names=["hour_sin", "hour_cos", "weekday_sin", "weekday_cos"],
        )
        train, val, test = _by_month(time)
        target = (
            series.observed
            & ~torch.isfinite(torch.from_numpy(incomplete.to_numpy(np.float32, copy=True)))[..., None]
        )
        held_out = hold_out(self.held_out, series.values, series.observed, self.seed)
        in_test = torch.from_numpy(np.isin(time.month, TEST_MONTHS))[:, None, None]
        held_out = torch.where(in_test, target, held_out)
        if int((held_out & in_test).sum()) != TARGET_ENTRIES:
            raise ValueError(
                f"the files in {self.root} must hide {TARGET_ENTRIES:,} entries of the test months, as "
                f"published; they hide {int((held_out & in_test).sum()):,}."
            )
        return Split(series, train, val, test, held_out)


def _read(path: Path, index: str) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(
            f"{path} must be a file of the AQI-36 data set; it does not exist. Set data.root to "
            "its folder, or data.url to the address of a mirror."
        )
    if digest_of(path) != CHECKSUMS[path.name]:
        logger.warning("%s is not the published file (its SHA-256 differs): scores do not compare.", path)
    try:
        table = pd.read_csv(path, index_col=index, dtype={"sensor_id": str})
    except (ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a table with a column {index!r}; it cannot be read: {reason}."
        ) from error
    numbers = table.apply(pd.to_numeric, errors="coerce")
    wrong = (numbers.isna() & table.notna()).to_numpy()
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"{path}, line {row + 2}, column {table.columns[column]!r}: "
            f"{quoted(table.iat[row, column])} is not a number."
        )
    return numbers


def _times(path: Path, table: pd.DataFrame) -> pd.DatetimeIndex:
    """Returns the hour of each row of a table."""
    time = pd.DatetimeIndex(pd.to_datetime(table.index, format=FORMAT, errors="coerce"))
    if time.isna().any():
        row = int(time.isna().argmax())
        raise ValueError(
            f"{path}, line {row + 2}, column 'datetime': {quoted(table.index[row])} is not a time such as "
            "2014/05/01 01:00:00."
        )
    return time


def _by_month(time: pd.DatetimeIndex) -> tuple[list[slice], list[slice], list[slice]]:
    """Returns the slices for training, validation (last tenth of a month) and test (whole months)."""
    month = np.asarray(time.year * 12 + time.month)
    bounds = [0, *(np.flatnonzero(np.diff(month)) + 1).tolist(), len(time)]
    train, val, test = [], [], []
    for start, stop in pairwise(bounds):
        if time.month[start] in TEST_MONTHS:
            test.append(slice(start, stop))
        else:
            cut = start + round(0.9 * (stop - start))
            train.append(slice(start, cut))
            val.append(slice(cut, stop))
    return train, val, test
