"""Compares training steps with and without ``torch.compile``.

    python -m experiments.benchmarks.compile [ENCODER ...]

Times a training step (forward, backward, no optimiser) of each encoder, of the same model on the same batch,
with the encoder uncompiled and compiled; prints the best of several. The time of the first compiled step is
that of compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from lightning import seed_everything

from experiments.benchmarks.harness import arguments, synchronised, timed
from tsgen import AutoregressiveModel
from tsgen.data.series import SeriesBatch
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, Encoder, GraphGRUEncoder, WindowEncoder
from tsgen.encoders.propagation import GraphConvolution
from tsgen.heads import MixtureHead
from tsgen.heads.likelihood import masked_nll

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "WindowEncoder": partial(WindowEncoder, order=4),
    "ConvolutionEncoder": partial(ConvolutionEncoder, layers=4),
    "GraphGRUEncoder": partial(GraphGRUEncoder, convolution=GraphConvolution),
    "AttentionEncoder": partial(AttentionEncoder, layers=2),
}


def seconds(model: AutoregressiveModel, batch: SeriesBatch, repeats: int) -> list[float]:
    """Returns the seconds of each of several training steps."""

    def step() -> None:
        masked_nll(model(batch), batch.values, batch.target).backward()
        model.zero_grad()

    return timed([step], repeats, partial(synchronised, batch.values.device), warm_up=0)[:, 0].tolist()


def main() -> None:
    """Prints one line per encoder."""
    parser = arguments(__doc__)
    parser.add_argument(
        "encoders", nargs="*", metavar="ENCODER", help=f"of {', '.join(ENCODERS)}; default: all"
    )
    names = parser.parse_args().encoders or list(ENCODERS)
    if unknown := [name for name in names if name not in ENCODERS]:
        parser.error(f"an encoder must be one of {', '.join(ENCODERS)}; got {unknown[0]!r}.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print("encoder             plain ms  compiled ms  ratio  compiling s")
    for name in names:
        seed_everything(0, verbose=False)
        data = SyntheticDataModule(num_nodes=36, steps=1000, window=24, batch_size=32)
        model = AutoregressiveModel(
            data.spec, partial(ENCODERS[name], hidden=64), partial(MixtureHead, components=5)
        ).to(device)
        batch = next(iter(data.train_dataloader()))
        batch = model.transfer_batch_to_device(batch, torch.device(device), 0)
        plain = min(seconds(model, batch, 12))
        model.encoder.compile()
        first, *others = seconds(model, batch, 13)
        best = min(others)
        print(
            f"{name:19} {1e3 * plain:8.1f}  {1e3 * best:11.1f}  {plain / best:5.2f}  {first:11.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
