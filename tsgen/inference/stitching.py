r"""A long series drawn window by window, so that a sample is one path through the whole series.

Neighbouring windows share some steps. Sample s of window w + 1 is conditioned on what sample s of window w
drew for the first of these steps, as if it had been observed:

.. math:: p(x_{1:T} \mid \text{context}) \approx \prod_w p(x_{\text{new in } w} \mid
    x_{\text{last kept in } w-1}, \text{context in } w).

For a posterior sampler the second half of the shared steps is lookahead: it is drawn, so that its context
informs the steps before it, and then discarded. A filtering sampler ignores later context, so that all
shared steps are history. The result is exact if a window's history determines the law of what follows (a
model of no more lags than the history has steps) and if nothing beyond the lookahead informs what is kept.

:class:`~tsgen.data.tiles.Tiles` defines the positions of the windows. :class:`SeriesImputation` draws them,
for :func:`tsgen.impute` and for ``tsgen predict`` alike: it keeps each window in a part file as soon as it is
drawn, so that an interrupted run resumes, and merges the part files into one netCDF file. Memory holds the
windows that are being drawn, however long the series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tsgen
from tsgen.data.fingerprint import fingerprint
from tsgen.data.series import Samples, Series, SeriesBatch, Units
from tsgen.data.tiles import Tiles
from tsgen.inference.writer import write_imputation
from tsgen.metrics import FarDraws
from tsgen.protocols import Model
from tsgen.sampling import Sampler
from tsgen.storage.display import print_line
from tsgen.storage.parts import Parts


class SeriesImputation:
    """Draws the unknown entries of a series, window by window, into a netCDF file.

    In this order: :meth:`begin` (one process), :meth:`lock`, :meth:`draw` for the windows of each of
    :meth:`batches`, :meth:`finish` (one process, once all have drawn), :meth:`release`.

    Windows that an earlier run drew with the same model, data and options are read from their part files. A
    sampler that cannot continue given draws (see :attr:`~tsgen.sampling.Sampler.extends`) draws each window
    independently. Each shared step is then taken from one of its two windows; with a posterior sampler, the
    border lies in the middle of the shared steps.

    Several processes divide the stretches among themselves, or the windows if these are independent. If there
    are fewer of these than processes, the processes divide the samples instead, which are independent given
    the data: each process draws its share of the samples in every window.

    Args:
        sampler: Draws a window.
        series: The series.
        tiles: The positions of the windows.
        path: The netCDF file; part files lie beside it.
        rank: Number of this process.
        world_size: Number of processes.
        continued: Whether windows continue each other, if the sampler can; otherwise each is drawn
            independently.

    Attributes:
        numbers: Numbers of the samples that this process draws.

    Raises:
        ValueError: If there are more processes than stretches, independent windows or samples.
    """

    def __init__(
        self,
        sampler: Sampler,
        series: Series,
        tiles: Tiles,
        path: Path,
        rank: int = 0,
        world_size: int = 1,
        continued: bool = True,
    ) -> None:
        self.sampler, self.series, self.tiles, self.path = sampler, series, tiles, path
        self.parts = Parts.beside(path)
        ahead = 0 if sampler.conditioning == "filtering" else tiles.overlap // 2
        self.kept, self.before = tiles.kept(ahead), tiles.before
        self.continued = continued and sampler.extends and bool(tiles.overlap)
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
        self._stored: dict[int, list[range]] | None = None
        self._units: Units | None = None

    def begin(self, model: Any, *options: Any) -> int:
        """Removes part files of another model, other options or other data, and damaged ones.

        Damaged part files are reported.

        Args:
            model: The model.
            options: What else determines the draws.

        Returns:
            The number of windows that need not be drawn again.

        Raises:
            ValueError: If a process of another command is still drawing.
        """
        self.parts.check_free()  # at once: the fingerprint of a long series takes minutes
        versions = f"tsgen {tsgen.__version__}, torch {torch.__version__}"
        mark = fingerprint(model, self.series, self.sampler, self.tiles, versions, *options)
        self.parts.check_free()  # another command may have begun to draw meanwhile
        if self.parts.mark != mark:
            self.parts.clear()
            self.parts.mark = mark
        for damaged in self.parts.remove_damaged("values", "observed", "ess"):
            print_line(f"Warning: {damaged}; it is drawn again.")
        units = model.node_units
        self._units = Units(units.loc.detach().cpu(), units.scale.detach().cpu(), transforms=units.transforms)
        self._stored = None
        every = range(self.sampler.num_samples)
        return sum(not self._missing(start, every) for start in self.tiles.starts)

    def lock(self) -> None:
        """Locks the part files against other commands, until :meth:`release` or the end of the process."""
        self.parts.lock(self.rank)

    def release(self) -> None:
        """Unlocks the part files."""
        self.parts.release()

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yields batches of window numbers for this process, each window after the one that it continues.

        Args:
            size: The most windows in a batch.
        """
        tiles = self.tiles if self.continued else replace(self.tiles, overlap=0)
        share = (0, 1) if self.shares_samples else (self.rank, self.world_size)
        return tiles.batches(size, *share)

    def draw(self, model: Model, batch: SeriesBatch) -> Samples:
        """Draws windows, or reads those that were drawn before.

        Args:
            model: A model that the sampler accepts.
            batch: The windows; no two of one stretch if they continue each other.
        """
        starts = batch.position[:, 0].tolist()
        missing = [self._missing(start, self.numbers) for start in starts]
        # samples missing from one window are drawn for all: the size of a batch affects how sums are rounded
        for numbers in _runs(set().union(*missing)):
            drawn = self._drawn(model, batch, starts, numbers)
            for i, start in enumerate(starts):
                ess = None if drawn.ess is None else drawn.ess[i]
                for run in _runs(missing[i] & set(numbers)):
                    rows = slice(run.start - numbers.start, run.stop - numbers.start)
                    self._keep(start, run, drawn.values[rows, i], batch.context[i], ess)
        kept = np.stack([self.read(start, self.numbers)[0] for start in starts], axis=1)
        return Samples(torch.from_numpy(kept).to(batch.values.device), self.sampler.conditioning)

    def finish(self, model: str) -> str | None:
        """Merges the part files into the netCDF file and removes them.

        The file's attribute ``far_draws`` says where draws lie far outside the observed range, if any do.

        Args:
            model: The model's name, for the file's attributes.

        Returns:
            The attribute ``far_draws``, or None.

        Raises:
            RuntimeError: If a window or a sample of one is missing, or would be written twice.
        """
        self.refresh()
        samples, tiles = self.sampler.num_samples, self.tiles
        attributes = {
            "model": model,
            "method": type(self.sampler).__name__,
            "conditioning": self.sampler.conditioning,
            "seed": self.sampler.seed,
            "window": tiles.window,
            "overlap": tiles.overlap,
            "joint": self.joint,
            **self._effective_sizes(),
        }
        far_draws = None
        if self._units is not None:
            far_draws = FarDraws(self._units, sync_on_compute=False)  # one process merges the files of all
            far_draws.observe_series(self.series)
        warning = write_imputation(
            self.path,
            self.series,
            tiles,
            self.kept,
            lambda start: self.read(start, range(samples)),
            samples,
            attributes,
            far_draws,
        )
        self.parts.clear()
        return warning

    def read(self, start: int, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """Returns the draws of a window, and the mask of its context.

        Args:
            start: The window's first step.
            numbers: The numbers of the samples.

        Raises:
            RuntimeError: If one of them was not drawn, or was drawn twice.
        """
        samples, values, observed = list[int](), [], np.empty(0)
        for stored in sorted(self._drawn_before.get(start, ()), key=lambda r: r.start):
            common = range(max(stored.start, numbers.start), min(stored.stop, numbers.stop))
            if common:
                part = self.parts[_name(start, stored)]
                values.append(part["values"][common.start - stored.start : common.stop - stored.start])
                samples, observed = [*samples, *common], part["observed"]
        if samples != list(numbers):
            raise RuntimeError(
                f"every sample of the window from step {start} must be drawn once; of {len(numbers)} there "
                f"are {len(samples)}."
            )
        return values[0] if len(values) == 1 else np.concatenate(values), observed

    def refresh(self) -> None:
        """Forgets the list of part files, so that those of other processes are found."""
        self._stored = None

    @property
    def joint(self) -> str:
        """A description of which entries of a sample are drawn jointly, for the file's attributes."""
        if not self.sampler.joint:
            return "single entries"
        return "over each stretch" if self.continued or not self.before else "within each window"

    @property
    def _drawn_before(self) -> dict[int, list[range]]:
        """The stored samples of each window, by its start; listed once, then updated by :meth:`_keep`."""
        if self._stored is None:
            self._stored = {}
            for name in self.parts.names():
                start, first, end = map(int, name.split("-"))
                self._stored.setdefault(start, []).append(range(first, end))
        return self._stored

    def _effective_sizes(self) -> dict[str, float]:
        """Returns the smallest and the median effective sample size of a step, as shares of the particles."""
        if self.sampler.extends:  # draws one by one, without weighted particles
            return {}
        every = np.concatenate([np.empty(0), *(part["ess"].ravel() for part in self.parts)])
        if not every.size:
            return {}
        return {"smallest_ess": float(every.min()), "median_ess": float(np.median(every))}

    def _missing(self, start: int, numbers: range) -> set[int]:
        """Returns the samples of a window that have no part file."""
        return set(numbers).difference(*self._drawn_before.get(start, ()))

    def _keep(
        self,
        start: int,
        numbers: range,
        values: torch.Tensor,
        observed: torch.Tensor,
        ess: torch.Tensor | None,
    ) -> None:
        """Writes samples of a window to a part file, with their effective sample sizes if there are any."""
        array = values.to("cpu", self.series.dtype).numpy()
        # every part has the same arrays, so that one which lost an array is found to be damaged
        sizes = np.empty(0) if ess is None else ess.cpu().numpy()
        part = {"values": array, "observed": observed.cpu().numpy(), "ess": sizes}
        self.parts.write(_name(start, numbers), part)
        self._drawn_before.setdefault(start, []).append(numbers)

    def _drawn(self, model: Model, batch: SeriesBatch, starts: list[int], numbers: range) -> Samples:
        """Returns new draws of the windows, each given the draws of the window before."""
        if not self.sampler.extends:
            return self.sampler(model, batch)
        if not self.continued or not any(start in self.before for start in starts):
            return self.sampler.some(model, batch, numbers)
        drawn_steps = torch.zeros(batch.position.shape, dtype=torch.bool)
        past = torch.zeros(len(numbers), *batch.values.shape, dtype=self.series.dtype)
        for i, start in enumerate(starts):
            if start in self.before:
                shared = self.kept[start].start - start
                ago = start - self.before[start]
                earlier, _ = self.read(self.before[start], numbers)
                past[:, i, :shared] = torch.from_numpy(earlier[:, ago : ago + shared])
                drawn_steps[i, :shared] = True
        device = batch.values.device
        return self.sampler.extend(model, batch, past.to(device), drawn_steps.to(device), numbers)


def _name(start: int, numbers: range) -> str:
    """Returns the name of the part file of a window's samples."""
    return f"{start:010d}-{numbers.start:06d}-{numbers.stop:06d}"


def _runs(numbers: set[int]) -> list[range]:
    """Returns the longest ranges of consecutive numbers, in order."""
    ordered = sorted(numbers)
    firsts = [n for n in ordered if n - 1 not in numbers]
    lasts = [n for n in ordered if n + 1 not in numbers]
    return [range(a, b + 1) for a, b in zip(firsts, lasts, strict=True)]
