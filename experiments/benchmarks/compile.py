"""Training steps as they are and compiled: ``python -m experiments.benchmarks.compile``.

For each encoder a training step (forward, backward, no optimiser) of the same model on the same batch, as it
is and compiled; the best of several. The first compiled step's time is that of compiling.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import torch
from lightning import seed_everything

from tsgen import AutoregressiveModel
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, GraphGRUEncoder, WindowEncoder
from tsgen.encoders.propagation import GraphConvolution
from tsgen.heads import MixtureHead
from tsgen.heads.likelihood import masked_nll

ENCODERS = {
    "WindowEncoder": partial(WindowEncoder, order=4),
    "ConvolutionEncoder": partial(ConvolutionEncoder, layers=4),
    "GraphGRUEncoder": partial(GraphGRUEncoder, convolution=GraphConvolution),
    "AttentionEncoder": partial(AttentionEncoder, layers=2),
}


def seconds(model: Any, batch: Any, repeats: int) -> list[float]:
    """The time of each of several training steps."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        masked_nll(model(batch), batch.values, batch.target).backward()
        model.zero_grad()
        if batch.values.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken


def main(names: list[str]) -> None:
    """Prints a line for each encoder."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print("encoder             plain ms  compiled ms  ratio  compiling s")
    for name in names or ENCODERS:
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
    main(sys.argv[1:])
