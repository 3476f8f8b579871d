"""The data of a page's section on values: do the drawn values look like the measured ones?

Both are read from evenly spaced blocks of ``imputation.nc``, at most :data:`MAX_VALUES` numbers in all, so
that a large file costs no more than a small one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from tsgen.data.support import SEPARATOR, bounds_of
from tsgen.figures import MAX_CHANNELS
from tsgen.figures.imputed import values_compared
from tsgen.figures.style import in_style, of_channel
from tsgen.report.gaps import MAX_VALUES
from tsgen.report.pictures import picture
from tsgen.report.tables import Row, column, name

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The levels of the quantiles that are compared."""

BLOCKS = 64
"""The number of blocks of time that are read of a large file."""

FREQUENT = 0.02
"""A value that makes up at least this share of the measured or drawn values is named."""


def value_sections(data: xr.Dataset) -> list[dict[str, Any]]:
    """Returns the data of the section for each of the first channels in which something was drawn.

    Args:
        data: The content of ``imputation.nc``; it is read in blocks.
    """
    sections = []
    for channel in range(min(data.sizes["channel"], MAX_CHANNELS)):
        measured, drawn = read_values(data, channel)
        if len(drawn) and len(measured):
            sections.append(_section(data, channel, measured, drawn))
    return sections


def read_values(
    data: xr.Dataset, channel: int, most: int = MAX_VALUES
) -> tuple[Float[np.ndarray, " measured"], Float[np.ndarray, " drawn"]]:
    """Returns measured and drawn values of a channel, from evenly spaced blocks of time.

    Args:
        data: The content of ``imputation.nc``.
        channel: The index of the channel.
        most: The maximum number of values to read.
    """
    samples, steps, nodes, _ = data["imputation"].shape
    kept = max(1, min(samples, most // nodes))
    affordable = max(1, most // (kept * nodes))
    blocks = 1 if steps <= affordable else min(BLOCKS, affordable)
    length = min(steps, affordable // blocks)
    measured, drawn = [], []
    for start in np.linspace(0, steps - length, blocks).astype(int):
        some = slice(start, start + length)
        observed = data["observed"][some, :, channel].values.astype(bool)
        values = data["imputation"][:kept, some, :, channel].values
        measured.append(values[0][observed])
        drawn.append(values[:, ~observed].ravel())
    return np.concatenate(measured), np.concatenate(drawn)


def _section(data: xr.Dataset, channel: int, measured: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    label = of_channel(data, channel)
    levels = [0.0, *LEVELS, 1.0]
    rows = [np.quantile(values, levels) for values in (measured, drawn)]
    supports = str(data.attrs.get("support", "real")).split(SEPARATOR)
    support = supports[channel if len(supports) > 1 else 0]
    draw = in_style(lambda columns: values_compared(measured, drawn, label, columns))
    return {
        "name": name(label),
        "support": name(support),
        "picture": picture(draw, 2),
        "headings": ["lowest", *(f"{100 * level:g} %" for level in LEVELS), "highest"],
        "rows": [
            Row([kind, *column(values.tolist())])
            for kind, values in zip(("measured", "drawn"), rows, strict=True)
        ],
        "frequent": [_frequent(end, measured, drawn) for end in _atoms(support, measured, drawn)],
    }


def _atoms(support: str, measured: np.ndarray, drawn: np.ndarray) -> list[float]:
    """Returns the ends of the support, and zero, that make up a share of the values."""
    ends = {0.0, *(end for [end] in bounds_of(support) if np.isfinite(end))}
    return [
        end for end in sorted(ends) if max((values == end).mean() for values in (measured, drawn)) >= FREQUENT
    ]


def _frequent(value: float, measured: np.ndarray, drawn: np.ndarray) -> str:
    shares = [f"{100 * (values == value).mean():.1f} %" for values in (measured, drawn)]
    return f"{shares[0]} of the measured and {shares[1]} of the drawn values are exactly {value:g}."
