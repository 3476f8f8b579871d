"""Log-likelihoods of the ten folds of red wine, with and without test cases that training has seen.

    python -m experiments.benchmarks.red_wine RUNS_FOLDER DATA_ROOT

RUNS_FOLDER is what ``tsgen fit --config red_wine`` leaves, ``runs/red_wine``; DATA_ROOT holds
``red_wine.hdf5``. Of each fold's best checkpoint: the mean log-likelihood a case in nats, over the validation
cases, the test cases, and those test cases that equal no training case (the values are rounded, and rows
repeat). Their mean over the folds comes with its standard error. Nothing is drawn; it takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import tsgen
from datamodules import RedWineDataModule
from datamodules.red_wine import FOLDS
from tsgen.data.series import SeriesBatch
from tsgen.datamodules.windows import Stage

ROWS = ("validation", "**test**", "test, cases that no training case equals")


def cases(data: RedWineDataModule, stage: Stage) -> SeriesBatch:
    """All cases of a split."""
    dataset = data.dataset(stage)
    return dataset.__getitems__([(0, i) for i in range(len(dataset))])


def unseen(train: Tensor, test: Tensor) -> Tensor:
    """Which of the test cases equal no training case."""
    known = set(map(tuple, train.flatten(1).tolist()))
    return torch.tensor([case not in known for case in map(tuple, test.flatten(1).tolist())])


@torch.no_grad()
def scores(folder: Path, root: str, fold: int) -> list[float]:
    """The mean log-likelihoods of one fold, in the order of :data:`ROWS`.

    Args:
        folder: That of the ten runs.
        root: That of the data.
        fold: Which of the ten, 1 to 10.
    """
    data = RedWineDataModule(root, fold=fold)
    train, val, test = cases(data, "train"), cases(data, "val"), cases(data, "test")
    model = tsgen.load(folder / f"fold_{fold}" / "checkpoints" / "best.ckpt")
    found = model.log_likelihood(test).double()
    new = unseen(train.values, test.values)
    return [float(x.mean()) for x in (model.log_likelihood(val).double(), found, found[new])]


def table(rows: Sequence[Sequence[float]]) -> str:
    """Markdown: a column a fold, then the mean and its standard error."""
    lines = ["| fold | " + " | ".join(str(fold + 1) for fold in range(len(rows))) + " | mean |"]
    lines.append("| --- " * (len(rows) + 2) + "|")
    for name, values in zip(ROWS, torch.tensor(rows, dtype=torch.float64).T, strict=True):
        error = values.std() / len(values) ** 0.5
        shown = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {shown} | {values.mean():.3f} ± {error:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m experiments.benchmarks.red_wine RUNS_FOLDER DATA_ROOT")
    torch.set_num_threads(1)
    print(table([scores(Path(sys.argv[1]), sys.argv[2], fold) for fold in range(1, FOLDS + 1)]))


if __name__ == "__main__":
    main()
