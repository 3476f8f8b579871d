r"""How near a trained any-order model comes to the exact posterior of linear-Gaussian data.

    python -m experiments.benchmarks.any_order

A linear process on a graph is simulated, an :class:`~tsgen.models.AnyOrderModel` is trained on its windows by
hiding random entries, and its laws of single hidden entries are compared with the exact ones, on windows and
patterns that it was not trained on. With :math:`m, s` the exact posterior mean and standard deviation of a
hidden entry, :math:`\hat m, \hat s` the model's, and :math:`\mu` the entry's mean before anything is seen,
all in stationary standard deviations of the node, and root mean squares over all hidden entries,

.. math::
    \text{mean} = \frac{\mathrm{rms}(\hat m - m)}{\mathrm{rms}(m - \mu)}, \qquad
    \text{deviation} = \frac{\mathrm{rms}(\hat s - s)}{\mathrm{rms}(s)}, \qquad
    \text{in deviations} = \mathrm{rms}\Bigl(\frac{\hat m - m}{s}\Bigr).

The first divides by what there is to learn, not by the level of the data. The gap is the mean difference of
the two log-densities of the truth, in nats an entry, with its standard error over windows; a gap below zero
by more than that would mean that the model has seen what it must not see.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from functools import partial
from typing import NamedTuple

import torch
from lightning import Trainer, seed_everything
from torch import Tensor
from torch.distributions import Distribution

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
    """How far a model's laws are from the exact ones (see the module).

    Attributes:
        mean: Of the means, relative to how far the exact ones are from the process' own mean.
        deviation: Of the standard deviations, relative to the exact ones.
        in_deviations: Of the means, in exact posterior standard deviations.
        gap: The mean of exact less model log-density, in nats an entry.
        gap_error: Its standard error.
    """

    mean: float
    deviation: float
    in_deviations: float
    gap: float
    gap_error: float


def make_data(
    nodes: int, window: int, windows: int, thinning: Mask = POINTS, batch_size: int = 64
) -> SyntheticDataModule:
    """Windows of the linear process that do not overlap, a thousand more of them to be judged on.

    Args:
        nodes: The number of nodes.
        window: Length of a window, in steps.
        windows: How many there are to learn from.
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
    """The test windows, a pattern hidden of them."""
    dataset = data.dataset("test")
    batch = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    hidden = mask.hidden(streams(1, batch.position[:, 0]), batch.values)
    return SeriesBatch(batch.values, ~hidden, hidden, batch.graph, batch.position)


def errors(law: Distribution, process: VARProcess, batch: SeriesBatch) -> Errors:
    """Compares laws of hidden entries with the exact ones.

    Args:
        law: One density an entry.
        process: The process that the windows were drawn from.
        batch: Windows, what is hidden as target.
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
    """A model trained on these windows.

    Args:
        data: The windows.
        steps: Steps of the optimiser, in 25 epochs of a part of the windows each.
        hidden: Size of a node's state.
        layers: Number of blocks of the encoder, each looking twice as far as the one before it.
        repeats: How often they come.
        lr: The learning rate at first.
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
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        limit_train_batches=steps // EPOCHS,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    return model.eval()


def main() -> None:
    """Trains and prints the table."""
    torch.set_num_threads(1)
    data = make_data(nodes=4, window=12, windows=150_000, thinning=MIXED)
    start = time.process_time()
    model = train(data, steps=15_000)
    seconds = time.process_time() - start
    weights = sum(p.numel() for p in model.parameters())
    print(f"4 nodes, 12 steps, {weights:,} weights, {seconds:.0f} s of one CPU core")
    print("hidden            mean  deviation  in deviations  gap [nats an entry]")
    masks = {f"points, {share:.0%}": PointMask(share) for share in SHARES}
    masks["blocks of 2 to 8"] = BlockMask(0.1, 2, 8)
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
