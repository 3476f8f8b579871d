"""Trains a small model on the number of processes that is asked for; the tests run it as a script."""

import sys
from functools import partial

import torch
from lightning import Trainer, seed_everything

from tsgen.data.masks import PointMask
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.models import AutoregressiveModel

if __name__ == "__main__":
    processes, path = int(sys.argv[1]), sys.argv[2]
    seed_everything(1)
    # windows differ widely in what is missing: the mean of two means is then not the mean
    data = SyntheticDataModule(
        num_nodes=5,
        steps=302,
        window=12,
        missing=PointMask(0.4),
        thinning=PointMask((0.0, 0.9)),
        batch_size=16 // processes,
        subgraphs=Subgraphs(clusters=int(sys.argv[3]), hops=1) if len(sys.argv) > 3 else None,
    )
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=8),
        partial(MixtureHead, components=2),
        partial(torch.optim.SGD, lr=0.1),
    )
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    (scores,) = trainer.test(model, data, verbose=False)
    if trainer.is_global_zero:
        val = float(trainer.callback_metrics.get("val/nll", torch.nan))
        torch.save({"state": model.state_dict(), "scores": scores, "val": val}, path)
