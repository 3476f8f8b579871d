r"""Measures how close a trained any-order model comes to the exact posterior of linear-Gaussian data.

    python -m experiments.benchmarks.any_order

A linear process on a graph is simulated, an :class:`~tsgen.models.AnyOrderModel` is trained on its windows by
hiding random entries, and its laws of single hidden entries are compared with the exact ones, on windows and
patterns that it was not trained on. With :math:`m, s` the exact posterior mean and standard deviation of a
hidden entry, :math:`\hat m, \hat s` those of the model, and :math:`\mu` the unconditional mean of the entry,
all in stationary standard deviations of the node, and root mean squares over all hidden entries, the errors
are

.. math::
    \text{mean} = \frac{\mathrm{rms}(\hat m - m)}{\mathrm{rms}(m - \mu)}, \qquad
    \text{deviation} = \frac{\mathrm{rms}(\hat s - s)}{\mathrm{rms}(s)}, \qquad
    \text{in deviations} = \mathrm{rms}\Bigl(\frac{\hat m - m}{s}\Bigr).

The first one divides by how far the exact means move from :math:`\mu`, which is what a model has to learn,
not by the level of the data. The gap is the mean difference of the two log-densities of the truth, in nats
per entry, with its standard error over windows. A gap that is below zero by more than a few standard errors
would mean that the model has seen entries that must be hidden from it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import torch
from lightning import seed_everything
from torch import Tensor
from torch.distributions import Distribution

from experiments.benchmarks.harness import all_windows, arguments, quiet_trainer
from tsgen.counter_random import streams
from tsgen.data.masks import AnyOf, BlockMask, Mask, OneOf, PointMask
from tsgen.data.series import SeriesBatch
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import ConvolutionEncoder
from tsgen.encoders.propagation import DiffusionConvolution
from tsgen.exact.linear import VARProcess
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AnyOrderModel

EPOCHS = 25
SHARES = (0.2, 0.5, 0.8)
POINTS = PointMask((0.0, 1.0))
MIXED = OneOf([POINTS, AnyOf([PointMask((0.0, 0.5)), BlockMask((0.0, 0.1), 2, 8)])], [2.0, 1.0])


class Errors(NamedTuple):
    """The errors of a model's laws against the exact ones (see the module).

    Attributes:
        mean: Error of the means, relative to the distance of the exact ones from the unconditional mean.
        deviation: Error of the standard deviations, relative to the exact ones.
        in_deviations: Error of the means, in exact posterior standard deviations.
        gap: The mean of the exact log-density minus that of the model, in nats per entry.
        gap_error: The standard error of the gap.
    """

    mean: float
    deviation: float
    in_deviations: float
    gap: float
    gap_error: float


def make_data(
    nodes: int, window: int, windows: int, thinning: Mask = POINTS, batch_size: int = 64
) -> SyntheticDataModule:
    """Returns windows of the linear process that do not overlap, with 1,000 more of them for the test.

    Args:
        nodes: The number of nodes.
        window: Length of a window, in steps.
        windows: The number of training windows.
        thinning: What is hidden of them in training.
        batch_size: Windows in a batch.
    """
    steps = (windows + 1000) * window
    return SyntheticDataModule(
        num_nodes=nodes,
        steps=steps,
        missing=PointMask(0.0),
        val=0.0,
        test=1000 * window / steps,
        window=window,
        stride=window,
        batch_size=batch_size,
        thinning=thinning,
    )


def hidden_windows(data: SyntheticDataModule, mask: Mask) -> SeriesBatch:
    """Returns the test windows with the entries of a mask hidden."""
    batch = all_windows(data, "test")
    hidden = mask.hidden(streams(1, batch.position[:, 0]), batch.values)
    return SeriesBatch(batch.values, ~hidden, hidden, batch.graph, batch.position)


def errors(law: Distribution, process: VARProcess, batch: SeriesBatch) -> Errors:
    """Returns the errors of laws of hidden entries against the exact ones.

    Args:
        law: One distribution per entry.
        process: The process that the windows were drawn from.
        batch: Windows whose hidden entries are target.
    """
    exact, start = process.posterior(batch), process.stationary()
    nodes = process.num_nodes
    level, unit = start.mean[:nodes, None], start.covariance.diagonal()[:nodes, None].sqrt()

    def rms(x: Tensor) -> float:
        return float(x[batch.hidden].double().square().mean().sqrt())

    missed = law.mean - exact.mean
    ours, best = (masked_log_prob(p, batch.values, batch.hidden).double() for p in (law, exact))
    by_window, count = (best - ours).sum(dim=(1, 2, 3)), batch.hidden.sum(dim=(1, 2, 3))
    gap = float(by_window.sum() / count.sum())
    error = float((by_window - gap * count).square().sum().sqrt() / count.sum())
    return Errors(
        mean=rms(missed / unit) / rms((exact.mean - level) / unit),
        deviation=rms((law.stddev - exact.stddev) / unit) / rms(exact.stddev / unit),
        in_deviations=rms(missed / exact.stddev),
        gap=gap,
        gap_error=error,
    )


def train(
    data: SyntheticDataModule,
    steps: int,
    hidden: int = 32,
    layers: int = 3,
    repeats: int = 2,
    lr: float = 7e-3,
) -> AnyOrderModel:
    """Returns a model trained on these windows.

    Args:
        data: The windows.
        steps: Optimiser steps, split into 25 epochs that each use some of the windows.
        hidden: Size of a node's state.
        layers: Number of blocks of the encoder, each with twice the reach of the one before it.
        repeats: How often the sequence of blocks is repeated.
        lr: The initial learning rate.
    """
    seed_everything(1, verbose=False)
    model = AnyOrderModel(
        data.spec,
        partial(
            ConvolutionEncoder,
            hidden=hidden,
            layers=layers,
            causal=False,
            convolution=partial(DiffusionConvolution, hops=1),
            repeats=repeats,
        ),
        GaussianHead,
        partial(torch.optim.AdamW, lr=lr, weight_decay=0.0, betas=(0.9, 0.99)),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=EPOCHS),
        node_embedding=4,
    )
    trainer = quiet_trainer(
        max_epochs=EPOCHS,
        limit_train_batches=steps // EPOCHS,
        gradient_clip_val=1.0,
        limit_val_batches=0,
    )
    trainer.fit(model, data)
    return model.eval()


def main() -> None:
    """Trains a model and prints the table."""
    arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    data = make_data(nodes=4, window=12, windows=150_000, thinning=MIXED)
    assert data.exact is not None
    start = time.process_time()
    model = train(data, steps=15_000)
    seconds = time.process_time() - start
    weights = sum(p.numel() for p in model.parameters())
    print(f"4 nodes, 12 steps, {weights:,} weights, {seconds:.0f} s of one CPU core")
    print("hidden            mean  deviation  in deviations  gap [nats per entry]")
    masks: dict[str, Mask] = {f"points, {share:.0%}": PointMask(share) for share in SHARES}
    masks["blocks of 2 to 8"] = BlockMask(0.1, 2, 8)
    assert isinstance(data.exact, VARProcess)
    for name, mask in masks.items():
        batch = hidden_windows(data, mask)
        with torch.no_grad():
            e = errors(model(batch), data.exact, batch)
        print(
            f"{name:16}{e.mean:6.1%}{e.deviation:11.1%}{e.in_deviations:15.3f}"
            f"{e.gap:12.4f} ± {e.gap_error:.4f}"
        )


if __name__ == "__main__":
    main()
