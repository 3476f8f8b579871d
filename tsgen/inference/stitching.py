r"""A long series imputed window by window, so that a sample is one path through all of it.

Neighbouring windows share some steps. Window w + 1 is told, sample by sample, what window w has drawn of the
first of them, as if it had been observed, and draws the rest anew:

.. math:: p(x_{1:T} \mid \text{visible}) \approx \prod_w p(x_{\text{new of } w} \mid
    x_{\text{last kept of } w-1}, \text{visible in } w).

For a sampler of the posterior the last half of what is shared is lookahead: it is drawn, so that what is
visible there is heeded, and not kept. For a filtering one nothing later counts, and all that is shared is
history. This is exact where the steps before a window say no more than those that it is told (an order of no
more lags), and what lies beyond its end says nothing of what is kept.

:class:`Tiles` says where the windows lie, :class:`Stitched` draws them and keeps each in a file as soon as it
is drawn, so that a run that was killed goes on, and :func:`write` puts them together. Memory holds the
windows that are being drawn, however long the series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch

import tsgen
from tsgen.data.series import Samples, Series, SeriesBatch
from tsgen.data.tiles import Tiles
from tsgen.sampling import Sampler
from tsgen.storage.atomic import replacing
from tsgen.storage.parts import Parts

CHUNK_STEPS = 16
"""Steps in one compressed chunk of the file: windows are written, and read again, without touching others."""


class Stitched(Sampler):
    """A sampler whose draws of a window go on from its draws of the window before, and are kept in files.

    Windows that were drawn earlier, by the same model from the same data, are read and not drawn again. A
    sampler that cannot go on from given draws (see :attr:`Sampler.extends`) draws each window by itself;
    what it shares with others is then lookahead at one end and the same, backwards, at the other.

    Several processes deal among them the stretches, or the windows that stand alone. Where these are fewer
    than processes, they deal the samples: each draws its share of them in every window, since samples do not
    depend on each other given the data.

    Args:
        sampler: Draws a window.
        series: The series.
        tiles: Where the windows lie.
        parts: Where they are kept.
        rank: Number of this process.
        world_size: Number of processes.

    Attributes:
        numbers: Those of the samples that this process draws.

    Raises:
        ValueError: If there are too many processes for anything to be dealt.
    """

    def __init__(
        self,
        sampler: Sampler,
        series: Series,
        tiles: Tiles,
        parts: Parts,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampler, self.series, self.tiles, self.parts = sampler, series, tiles, parts
        self.num_samples, self.seed, self.conditioning = (
            sampler.num_samples,
            sampler.seed,
            sampler.conditioning,
        )
        ahead = 0 if sampler.conditioning == "filtering" else tiles.overlap // 2
        self.kept, self.before = tiles.kept(ahead), tiles.before
        self.continued = sampler.extends and bool(tiles.overlap)
        self.rank, self.world_size, samples = rank, world_size, sampler.num_samples
        self.shares_samples = len(tiles.chains if self.continued else tiles.starts) < world_size
        if self.shares_samples and not (sampler.extends and samples >= world_size):
            raise ValueError(
                f"{world_size} processes need at least {world_size} stretches to predict, windows that stand "
                f"alone, or samples that are drawn one by one; there are {len(tiles.chains)} stretches of "
                f"{len(tiles.starts)} windows, and {type(sampler).__name__} draws {samples} samples. Use "
                "fewer processes."
            )
        place, shares = (rank, world_size) if self.shares_samples else (0, 1)
        self.numbers = range(samples * place // shares, samples * (place + 1) // shares)
        self._there: dict[int, list[range]] | None = None

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the sampler can be used with the model."""
        self.sampler.check(model)

    def begin(self, model: torch.nn.Module, *options: Any) -> int:
        """Removes what is kept unless it is of the same model, options and data; how many windows remain.

        What is damaged is removed too, and told.

        Args:
            model: The model.
            options: What else decides the draws.

        Raises:
            ValueError: If a process of another command still draws.
        """
        self.parts.check_free()
        made_by = f"tsgen {tsgen.__version__}, torch {torch.__version__}"
        mark = fingerprint(model, self.series, self.sampler, self.tiles, made_by, *options)
        if self.parts.mark != mark:
            self.parts.clear()
            self.parts.mark = mark
        for damaged in self.parts.remove_damaged("values", "observed"):
            print(f"Warning: {damaged}; it is drawn anew.")
        self._there = None
        every = range(self.num_samples)
        return sum(not self._missing(start, every) for start in self.tiles.starts)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Numbers of the windows that this process draws at the same time, each after the one before it.

        Args:
            size: The most windows in a batch.
        """
        tiles = self.tiles if self.continued else replace(self.tiles, overlap=0)
        whose = (0, 1) if self.shares_samples else (self.rank, self.world_size)
        return tiles.batches(size, *whose)

    def __call__(self, model: Any, batch: SeriesBatch) -> Samples:
        """Draws windows, no two of them of the same stretch if they overlap, or reads those that are kept."""
        starts = batch.position[:, 0].tolist()
        missing = [self._missing(start, self.numbers) for start in starts]
        # what one lacks is drawn of all: in a batch of another size, sums would round in another way
        for numbers in _runs(set().union(*missing)):
            values = self._drawn(model, batch, starts, numbers).values
            for i, start in enumerate(starts):
                for own in _runs(missing[i] & set(numbers)):
                    mine = slice(own.start - numbers.start, own.stop - numbers.start)
                    self._keep(start, own, values[mine, i], batch.context[i])
        kept = np.stack([self.read(start, self.numbers)[0] for start in starts], axis=1)
        return Samples(torch.from_numpy(kept).to(batch.values.device), self.conditioning)

    def read(self, start: int, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """What was drawn of a window, and which of its entries are the data's own.

        Args:
            start: The window's first step.
            numbers: Which samples.

        Raises:
            RuntimeError: If one of them was not drawn, or drawn twice.
        """
        found, values, observed = list[int](), [], np.empty(0)
        for there in sorted(self._drawn_before.get(start, ()), key=lambda r: r.start):
            mine = range(max(there.start, numbers.start), min(there.stop, numbers.stop))
            if mine:
                part = self.parts[_name(start, there)]
                values.append(part["values"][mine.start - there.start : mine.stop - there.start])
                found, observed = [*found, *mine], part["observed"]
        if found != list(numbers):
            raise RuntimeError(
                f"every sample of the window from step {start} must be drawn once; of {len(numbers)} there "
                f"are {len(found)}."
            )
        return values[0] if len(values) == 1 else np.concatenate(values), observed

    def refresh(self) -> None:
        """Takes notice of what other processes have drawn."""
        self._there = None

    @property
    def _drawn_before(self) -> dict[int, list[range]]:
        """The samples that are kept of each window, by its start; looked up once, and what is added noted."""
        if self._there is None:
            self._there = {}
            for name in self.parts.names():
                start, first, end = map(int, name.split("-"))
                self._there.setdefault(start, []).append(range(first, end))
        return self._there

    def _missing(self, start: int, numbers: range) -> set[int]:
        """The samples of a window that are not kept."""
        return set(numbers).difference(*self._drawn_before.get(start, ()))

    def _keep(self, start: int, numbers: range, values: torch.Tensor, observed: torch.Tensor) -> None:
        """Writes samples of a window."""
        own = values.to("cpu", self.series.dtype).numpy()
        self.parts.write(_name(start, numbers), {"values": own, "observed": observed.cpu().numpy()})
        self._drawn_before.setdefault(start, []).append(numbers)

    def _drawn(self, model: Any, batch: SeriesBatch, starts: list[int], numbers: range) -> Samples:
        """New draws of the windows, each given those of the window before."""
        if not self.sampler.extends:
            return self.sampler(model, batch)
        if not self.continued or not any(start in self.before for start in starts):
            return self.sampler.some(model, batch, numbers)
        known = torch.zeros(batch.position.shape, dtype=torch.bool)
        past = np.zeros((len(numbers), *batch.values.shape), dtype=_numpy(self.series.dtype))
        for i, start in enumerate(starts):
            if start in self.before:
                shared = self.kept[start].start - start
                ago = start - self.before[start]
                earlier, _ = self.read(self.before[start], numbers)
                past[:, i, :shared] = earlier[:, ago : ago + shared]
                known[i, :shared] = True
        device = batch.values.device
        return self.sampler.extend(model, batch, torch.from_numpy(past).to(device), known.to(device), numbers)


def _numpy(dtype: torch.dtype) -> np.dtype:
    """NumPy's name of a kind of numbers."""
    return torch.empty(0, dtype=dtype).numpy().dtype


def _name(start: int, numbers: range) -> str:
    """Under which samples of a window are kept."""
    return f"{start:010d}-{numbers.start:06d}-{numbers.stop:06d}"


def _runs(numbers: set[int]) -> list[range]:
    """Numbers as the longest ranges without a gap."""
    ordered = sorted(numbers)
    firsts = [n for n in ordered if n - 1 not in numbers]
    lasts = [n for n in ordered if n + 1 not in numbers]
    return [range(a, b + 1) for a, b in zip(firsts, lasts, strict=True)]


def fingerprint(model: torch.nn.Module, series: Series, *options: Any) -> str:
    """A number that tells models, data and options apart: their content's hash."""
    digest = hashlib.sha256()
    graph = {"edges": series.graph.edge_index, "weights": series.graph.edge_weight}
    for name, tensor in (model.state_dict() | graph).items():
        _add(digest, name, tensor)
    for part in series.chunks():
        _add(digest, "values", part.values.where(part.observed, 0))
        _add(digest, "observed", part.observed)
        if part.covariates is not None:
            _add(digest, "covariates", part.covariates)
    labels = (np.asarray(series.time).tobytes(), series.nodes, series.channels)
    made_of = getattr(model, "hparams", {}).get("model")
    digest.update(repr((type(model).__name__, made_of, labels, options)).encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    # of one entry, the stride may be zero: only a copy can be seen as bytes
    own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    digest.update(own.reshape(-1).view(torch.uint8).numpy().tobytes())


def write(stitched: Stitched, path: Path, model: str) -> None:
    """Puts all windows into one netCDF file, one in memory at a time.

    The file holds ``imputation (sample, time, node, channel)``, in which observed entries are the data's own
    in every sample, and ``observed (time, node, channel)``, with names, units and what was drawn by what.

    Args:
        stitched: The draws, all of them made.
        path: The file.
        model: The model's name.

    Raises:
        RuntimeError: If a window or a sample of one is not there, or would be written twice.
    """
    series, tiles, sampler = stitched.series, stitched.tiles, stitched.sampler
    steps = np.concatenate([np.arange(c[0], c[-1] + tiles.window) for c in tiles.chains])
    steps.sort()
    stitched.refresh()
    attributes = {
        "model": model,
        "method": type(sampler).__name__,
        "conditioning": sampler.conditioning,
        "seed": sampler.seed,
        "window": tiles.window,
        "overlap": tiles.overlap,
        "joint": _joint(stitched),
    }
    names = series.labels().isel(time=steps)[["time", "node", "channel", "unit"]]
    skeleton = names.assign_coords(sample=np.arange(sampler.num_samples)).assign_attrs(attributes)
    with replacing(path) as unfinished:
        skeleton.to_netcdf(unfinished)
        with netCDF4.Dataset(unfinished, "a") as file:
            _fill(file, stitched, steps)


def _fill(file: netCDF4.Dataset, stitched: Stitched, steps: np.ndarray) -> None:
    """Writes the windows into a file that holds all but them."""
    series, sampler = stitched.series, stitched.sampler
    count = np.zeros(len(steps), dtype=int)
    axes, chunk = ("time", "node", "channel"), (min(CHUNK_STEPS, len(steps)), *series.sizes[:2])
    options: dict[str, Any] = {"zlib": True, "complevel": 1}
    variable = file.createVariable(
        "imputation",
        _numpy(series.dtype),
        ("sample", *axes),
        fill_value=np.nan,
        chunksizes=(sampler.num_samples, *chunk),
        **options,
    )
    variable.coordinates = "unit"
    variable.long_name = "draws of the series; observed entries are the data's own"
    flag = file.createVariable("observed", "i1", axes, chunksizes=chunk, **options)
    flag.setncattr("dtype", "bool")  # as xarray writes truth values
    flag.coordinates = "unit"
    for start, kept in sorted(stitched.kept.items()):
        values, own_data = stitched.read(start, range(sampler.num_samples))
        mine = slice(kept.start - start, kept.stop - start)
        first = int(np.searchsorted(steps, kept.start))
        at = slice(first, first + kept.stop - kept.start)
        own, observed = series.chunk(kept).values.numpy(), own_data[mine]
        variable[:, at] = np.where(observed, own, values[:, mine])
        flag[at] = observed  # what is forecast is not the data's own
        count[at] += 1
    if (count != 1).any():
        raise RuntimeError(f"every step must be written once; {int((count != 1).sum())} were not.")


def _joint(stitched: Stitched) -> str:
    """What goes together in a draw, in words."""
    if not stitched.sampler.joint:
        return "single entries"
    return "over each stretch" if stitched.continued or not stitched.before else "within each window"
