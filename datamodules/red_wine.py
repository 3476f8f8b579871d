"""Red wine: a benchmark of density estimators in ten folds, in which each case is a window of one step."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import netCDF4
import numpy as np
import torch
from jaxtyping import Float

from tsgen.data.graphs import from_edges
from tsgen.data.masks import Mask
from tsgen.data.series import GraphSeries
from tsgen.datamodules.windows import SeriesDataModule, Split
from tsgen.storage.netcdf import check_netcdf

FOLDS = 10
TRAINING_FOLDS = 9
"""Number of training sets of a fold; the last one is for validation."""

CHANNELS = [
    "fixed_acidity",
    "volatile_acidity",
    "citric_acid",
    "residual_sugar",
    "chlorides",
    "free_sulfur_dioxide",
    "total_sulfur_dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
]


class RedWineDataModule(SeriesDataModule):
    r"""Eleven measurements of 1,599 red wines (UCI), in the ten folds of the authors of NADE.

    There is no time and no graph: a case is a window of one step of one node with 11 channels, so a model has
    no past to read and its head alone is the density estimator. No entry is hidden and every entry is a
    target: the log-densities that a NADE gives the entries of a case sum to the joint log-density of the
    case, and an NLL of n nats per entry is a log-likelihood of -11 n nats per case.

    Of the nine training sets of a fold the first eight are for training and the last for validation. As in
    the literature, every channel is standardised by its mean and standard deviation over all nine, so
    likelihoods are comparable: in these units a single Gaussian fitted to the nine reaches a mean test
    log-likelihood of -13.18 nats per case, as published.

    240 rows of the table are duplicates, so about a quarter of the test cases of a fold are also among its
    training cases, and values are rounded. Both reward narrow mixture components more than new wines would.
    Every published number is affected in the same way.

    Args:
        root: Folder with ``red_wine.hdf5``.
        fold: The fold, 1 to 10.
        batch_size: Cases in a batch of one process.
        thinning: Entries that are hidden from the model in training.
        seed: Fixes the order of cases and the hidden entries.
        num_workers: Number of processes that assemble batches; 0 assembles them in the main process.
        predict_on: The split that ``predict`` draws, or all cases.
        horizon: 0 scores every entry and hides none; 1 hides all entries of a case, which is then generated.

    Raises:
        ValueError: If ``fold`` is out of range, or the file is missing, damaged or not the published one.

    References:
        RNADE: the real-valued neural autoregressive density-estimator (Uria, Murray & Larochelle, 2013);
        Modeling wine preferences by data mining from physicochemical properties (Cortez et al., 2009).
    """

    def __init__(
        self,
        root: str,
        fold: int = 1,
        batch_size: int = 128,
        thinning: Mask | None = None,
        seed: int = 0,
        num_workers: int = 0,
        predict_on: Literal["train", "val", "test", "all"] = "test",
        horizon: int = 0,
    ) -> None:
        super().__init__(1, 1, batch_size, thinning, seed, num_workers, predict_on, horizon)
        if not 1 <= fold <= FOLDS:
            raise ValueError(f"fold must lie in 1..{FOLDS}; got {fold}.")
        self.root, self.fold = Path(root), fold

    def load(self) -> Split:
        """Reads the sets of the fold and concatenates them: training, validation, test."""
        sets = _read(self.root / "red_wine.hdf5", self.fold)
        cases, fitted_on = np.concatenate(sets), np.concatenate(sets[:TRAINING_FOLDS])
        values = torch.from_numpy((cases - fitted_on.mean(axis=0)) / fitted_on.std(axis=0)).float()[:, None]
        observed = torch.ones_like(values, dtype=torch.bool)
        series = GraphSeries(
            values=values,
            observed=observed,
            graph=from_edges([], [], num_nodes=1),
            nodes=["wine"],
            channels=CHANNELS,
            units=["standard deviations"] * len(CHANNELS),
        )
        stretches = [slice(a, b) for a, b in pairwise(accumulate(map(len, sets), initial=0))]
        return Split(
            series,
            train=stretches[: TRAINING_FOLDS - 1],
            val=stretches[TRAINING_FOLDS - 1 : TRAINING_FOLDS],
            test=stretches[TRAINING_FOLDS:],
            held_out=torch.zeros_like(observed),
        )


def _read(path: Path, fold: int) -> list[Float[np.ndarray, "cases channels"]]:
    """Returns the nine training sets of a fold and its test set."""
    if not path.is_file():
        raise ValueError(
            f"{path} must be the red wine data; there is no such file. Set data.root to its folder."
        )
    names = [f"training/{number}" for number in range(1, TRAINING_FOLDS + 1)] + ["tests/1"]
    try:
        check_netcdf(path)
        with netCDF4.Dataset(path.absolute()) as file:
            file.set_auto_mask(False)
            sets = [np.asarray(file[f"folds/{fold}/{name}/data"][:], dtype=np.float64) for name in names]
    # damage is an OSError or a RuntimeError, a missing item an IndexError or a KeyError
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        raise ValueError(f"{path} must hold the ten folds of red wine; it cannot be read: {error}") from error
    for name, array in zip(names, sets, strict=True):
        if array.ndim != 2 or array.shape[1] != len(CHANNELS) or not len(array):
            raise ValueError(
                f"{path}, folds/{fold}/{name}: cases must be rows of {len(CHANNELS)} numbers; the shape is "
                f"{list(array.shape)}. Get the published file."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"{path}, folds/{fold}/{name}: cases must be finite; {int((~np.isfinite(array)).sum())} "
                "numbers are not. Get the published file."
            )
    return sets
