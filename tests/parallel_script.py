"""Trains, tests and predicts on several numbers of processes; the tests run it as a script.

Processes are forked from this one, so that nothing is imported twice.
"""

import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything

from tsgen.cli.main import main
from tsgen.data.masks import PointMask
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules import SyntheticDataModule
from tsgen.datamodules.windows import EpochSampler, SeriesDataModule, Split
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.models import AutoregressiveModel
from tsgen.objectives import MaskedNLL, ParticleBound, Rollout
from tsgen.storage.parts import Parts

WINDOW, WINDOWS = 8, 16
OBJECTIVES = {
    "likelihood": partial(MaskedNLL, input_noise=0.2, crps_weight=0.5),
    "rollout": partial(Rollout, steps=3, paths=2),
    "particles": partial(ParticleBound, particles=3),
    "subgraphs": MaskedNLL,
}
RUNS = {
    "likelihood": ((1, 1), (2, 1), (1, 2), (2, 4), (1, 3)),
    "rollout": ((1, 1), (1, 2)),
    "particles": ((1, 1), (1, 2)),
    "subgraphs": ((1, 1), (2, 1), (1, 2), (2, 2)),
}
"""Processes and accumulated batches."""


class Uneven(SeriesDataModule):
    """One global batch, in which the first of two processes has ten times as many observed entries."""

    def load(self) -> Split:
        whole = SyntheticDataModule(num_nodes=5, steps=WINDOW * WINDOWS, missing=PointMask(0.0))
        series = whole.split.series
        draw = torch.rand(series.observed.shape, generator=torch.Generator().manual_seed(0))
        for place, (_, number) in enumerate(EpochSampler(WINDOWS, True, self.seed)):
            share = 0.04 if place % 2 else 0.9 if place < WINDOWS // 2 else 0.4
            steps = slice(number * WINDOW, (number + 1) * WINDOW)
            series.observed[steps] = draw[steps] < share
        everything = [slice(0, WINDOW * WINDOWS)]
        return Split(series, everything, [], [], torch.zeros_like(series.observed))


def weights_after_one_step(objective: str, processes: int, accumulate: int) -> dict[str, torch.Tensor]:
    """The weights after one step of gradient descent, less those before."""
    seed_everything(1, verbose=False)
    # what does not divide is left to a shorter last batch
    size = -(-WINDOWS // (processes * accumulate))
    subgraphs = Subgraphs(clusters=3, hops=1) if objective == "subgraphs" else None
    data = Uneven(WINDOW, WINDOW, size, subgraphs=subgraphs)
    encoder, head = partial(GraphGRUEncoder, hidden=6), partial(MixtureHead, components=2)
    optimizer, how = partial(torch.optim.SGD, lr=1.0), OBJECTIVES[objective]()
    model = AutoregressiveModel(data.spec, encoder, head, optimizer, objective=how).double()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp_fork" if processes > 1 else "auto",
        devices=processes,
        precision="64-true",
        max_epochs=1,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}


def counts() -> list[int]:
    """The observed entries of each of two processes."""
    data = Uneven(WINDOW, WINDOW)
    dataset = data.dataset("train")
    return [
        int(dataset.__getitems__(list(EpochSampler(WINDOWS, True, data.seed, rank, 2))).target.sum())
        for rank in range(2)
    ]


def command(name: str, folder: Path, processes: int, *options: str) -> None:
    """A command on several processes."""
    words = [name, "--config", "demo", "--runs", str(folder), "--data.steps", "1000", "--data.num_nodes", "5"]
    words += ["--data.window", "8", "--trainer.max_epochs", "1", "--model.encoder.hidden", "4"]
    words += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    words += ["--model.sampler.num_samples", "7", "--data.batch_size", "8"]
    words += ["--data.predict_on", "test"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", str(processes)]
    words += ["--trainer.strategy", "ddp_fork"] if processes > 1 else []
    assert main([*words, *options]) == 0, words


def killed(folder: Path, after: int) -> None:
    """A prediction on two processes, both of which are killed, the second of them later than the first."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        write, own = Parts.write, []

        def counted(self: Parts, name: str, arrays: dict) -> None:
            write(self, name, arrays)
            own.append(name)
            first = int(name.split("-")[1]) == 0
            if first and len(own) == after:
                os.kill(os.getpid(), signal.SIGSTOP)
            if not first and len(own) == after + 5:
                while sum("-000000-" in name for name in self.names()) < after:
                    time.sleep(0.05)
                os.killpg(0, signal.SIGKILL)

        Parts.write = counted
        command("predict", folder, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def late(folder: Path) -> None:
    """A prediction on two processes, the first of which waits longer than the strategy would let it."""
    write, own = Parts.write, []

    def slow(self: Parts, name: str, arrays: dict) -> None:
        if torch.distributed.get_rank() == 1 and not own:
            time.sleep(8)
        own.append(name)
        write(self, name, arrays)

    Parts.write = slow
    strategy = ["DDPStrategy", "--trainer.strategy.start_method", "fork"]
    command("predict", folder, 2, "--trainer.strategy", *strategy, "--trainer.strategy.timeout", "0:00:04")
    Parts.write = write


if __name__ == "__main__":
    out = Path(sys.argv[1])
    steps = {
        (objective, *run): weights_after_one_step(objective, *run)
        for objective, runs in RUNS.items()
        for run in runs
    }
    torch.save({"steps": steps, "counts": counts()}, out / "training.pt")
    command("fit", out, 1)
    run = out / "demo"
    for processes in (1, 2, 3):
        command("test", out, processes)
        shutil.copy(run / "scores.json", out / f"scores_{processes}.json")
        command("predict", out, processes)
        shutil.copy(run / "imputation.nc", out / f"imputation_{processes}.nc")
    late(out)
    shutil.copy(run / "imputation.nc", out / "late_2.nc")
    command("predict", out, 2, "--data.overlap", "0")
    shutil.copy(run / "imputation.nc", out / "apart_2.nc")
    command("predict", out, 1, "--data.overlap", "0")
    shutil.copy(run / "imputation.nc", out / "apart_1.nc")
    (run / "imputation.nc").unlink()
    killed(out, 10)
    left = {path.name: path.stat().st_mtime_ns for path in run.glob("imputation.nc.parts/part-*")}
    shutil.copytree(run / "imputation.nc.parts", out / "left.parts")
    command("predict", out, 2)
    shutil.copy(run / "imputation.nc", out / "resumed_2.nc")
    # by another number of processes
    shutil.copytree(out / "left.parts", run / "imputation.nc.parts")
    command("predict", out, 3)
    shutil.copy(run / "imputation.nc", out / "resumed_3.nc")
    torch.save(left, out / "left.pt")
