"""Prints the log-likelihoods of the ten folds of red wine, with and without copies of training cases.

    python -m experiments.benchmarks.red_wine RUNS_FOLDER DATA_ROOT

RUNS_FOLDER is the folder that ``tsgen fit --config red_wine`` writes, ``runs/red_wine``; DATA_ROOT holds
``red_wine.hdf5``. Scores the best checkpoint of each fold: the mean log-likelihood per case in nats, over the
validation cases, the test cases, and the test cases that equal no training case (the values are rounded, and
rows repeat), and the mean over the folds with its standard error. No samples are drawn; it takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import tsgen
from datamodules import RedWineDataModule
from datamodules.red_wine import FOLDS
from experiments.benchmarks.harness import all_windows, arguments
from tsgen.datamodules.windows import Stage

STAGES: tuple[Stage, ...] = ("train", "val", "test")
ROWS = ("validation", "**test**", "test, without copies of training cases")


def unseen(train: Tensor, test: Tensor) -> Tensor:
    """Returns a mask of the test cases that equal no training case."""
    repeated = set(map(tuple, train.flatten(1).tolist()))
    return torch.tensor([case not in repeated for case in map(tuple, test.flatten(1).tolist())])


@torch.no_grad()
def scores(folder: Path, root: str, fold: int) -> list[float]:
    """Returns the mean log-likelihoods of one fold, in the order of :data:`ROWS`.

    Args:
        folder: The folder of the ten runs.
        root: The folder of the data.
        fold: The number of the fold, 1 to 10.
    """
    data = RedWineDataModule(root, fold=fold)
    train, val, test = (all_windows(data, stage) for stage in STAGES)
    model = tsgen.load(folder / f"fold_{fold}" / "checkpoints" / "best.ckpt")
    tested = model.log_likelihood(test).double()
    new = unseen(train.values, test.values)
    return [float(x.mean()) for x in (model.log_likelihood(val).double(), tested, tested[new])]


def table(rows: Sequence[Sequence[float]]) -> str:
    """Returns a Markdown table with one column per fold, and the mean with its standard error."""
    lines = ["| fold | " + " | ".join(str(fold + 1) for fold in range(len(rows))) + " | mean |"]
    lines.append("| --- " * (len(rows) + 2) + "|")
    for name, values in zip(ROWS, torch.tensor(rows, dtype=torch.float64).T, strict=True):
        error = values.std() / len(values) ** 0.5
        shown = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {shown} | {values.mean():.3f} ± {error:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS_FOLDER", help="the folder of the ten runs")
    parser.add_argument("root", metavar="DATA_ROOT", help="the folder of red_wine.hdf5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table([scores(options.runs, options.root, fold) for fold in range(1, FOLDS + 1)]))


if __name__ == "__main__":
    main()
