"""Red wine: a density estimator's benchmark in ten folds, each case a window of one step."""

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
from tsgen.readers.hdf5 import check_contents

FOLDS = 10
TRAINING_FOLDS = 9
"""The parts of a fold beside its test; the last is for validation."""

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

    No time and no graph: a case is a window of one step of one node with 11 channels, so that a model has no
    past to read and its head alone is the density estimator. Nothing is hidden and every entry is scored:
    what a NADE gives the entries of a case sums to the case's joint log-density, and an NLL of n nats an
    entry is a log-likelihood of -11 n a case.

    Of the nine training parts of a fold the first eight are for training and the last for validation. As in
    the literature, every channel is standardised by its mean and deviation over all nine, so that likelihoods
    compare: in these units a single Gaussian, fitted to the nine, reaches a mean test log-likelihood of
    -13.18 a case, as published.

    240 rows of the table repeat another, so that about a quarter of a fold's test cases are among its
    training cases too, and values are rounded: narrow components are worth more here than for a new wine.
    That holds for every published number as well.

    Args:
        root: Folder with ``red_wine.hdf5``.
        fold: Which of the ten, 1 to 10.
        batch_size: Cases in a batch of one process.
        thinning: What is hidden from the model while it trains.
        seed: Fixes the order of cases and what is hidden.
        num_workers: Processes that gather batches; 0 gathers in the main process.
        predict_on: What ``predict`` draws: one split or all cases.
        horizon: 0 scores every entry, nothing hidden; 1 hides all of a case, which then is generated.

    Raises:
        ValueError: If ``fold`` is out of range, or the file is missing, damaged or another one.

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
            raise ValueError(f"fold must lie in 1..{FOLDS}; it is {fold}.")
        self.root, self.fold = Path(root), fold

    def load(self) -> Split:
        """Reads the fold's parts and puts them one after another: training, validation, test."""
        parts = _read(self.root / "red_wine.hdf5", self.fold)
        cases, fitted_on = np.concatenate(parts), np.concatenate(parts[:TRAINING_FOLDS])
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
        stretches = [slice(a, b) for a, b in pairwise(accumulate(map(len, parts), initial=0))]
        return Split(
            series,
            train=stretches[: TRAINING_FOLDS - 1],
            val=stretches[TRAINING_FOLDS - 1 : TRAINING_FOLDS],
            test=stretches[TRAINING_FOLDS:],
            held_out=torch.zeros_like(observed),
        )


def _read(path: Path, fold: int) -> list[Float[np.ndarray, "cases channels"]]:
    """The nine training parts of a fold and its test part."""
    if not path.is_file():
        raise ValueError(
            f"{path} must be the red wine data; there is no such file. Set data.root to its folder."
        )
    names = [f"training/{part}" for part in range(1, TRAINING_FOLDS + 1)] + ["tests/1"]
    try:
        check_contents(path)
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            parts = [np.asarray(file[f"folds/{fold}/{name}/data"][:], dtype=np.float64) for name in names]
    # a damaged file is an OSError or a RuntimeError, what it lacks an IndexError or a KeyError
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        raise ValueError(f"{path} must hold the ten folds of red wine; it cannot be read: {error}") from error
    for name, part in zip(names, parts, strict=True):
        if part.ndim != 2 or part.shape[1] != len(CHANNELS) or not len(part):
            raise ValueError(
                f"{path}, folds/{fold}/{name}: cases must be rows of {len(CHANNELS)} numbers; the shape is "
                f"{list(part.shape)}. Get the published file."
            )
        if not np.isfinite(part).all():
            raise ValueError(
                f"{path}, folds/{fold}/{name}: cases must be finite; {int((~np.isfinite(part)).sum())} "
                "numbers are not. Get the published file."
            )
    return parts
