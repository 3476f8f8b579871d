r"""Random numbers that are a pure function of (seed, keys, counter).

An ordinary generator hands out numbers in the order of the calls, so what a window receives depends on the
batch it lies in, the number of processes and what was drawn before. Here every number is computed from its
own address: a row's stream is a hash of the seed and the row's keys (window, epoch, sample), and the i-th
number of the stream is a hash of the stream and i. Results then do not depend on batch size, workers,
processes or interruption, and the CPU and a GPU agree. The hash is SplitMix64's finaliser over a Weyl
sequence.

References:
    Fast splittable pseudorandom number generators (Steele, Lea & Flood, 2014);
    Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def _signed(word: int) -> int:
    """The 64-bit word as the signed integer that torch stores."""
    return word - (1 << 64) if word >= 1 << 63 else word


_WEYL = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def streams(seed: int, *keys: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """One stream per row, from the seed and any number of integer keys that are broadcast together.

    Args:
        seed: Any integer.
        keys: What tells rows apart: window, epoch, sample, ... Their order matters.
    """
    stream = torch.full(
        (), _signed(seed % (1 << 64)), dtype=torch.int64, device=keys[0].device if keys else None
    )
    stream = _mix(stream + _WEYL)
    for key in keys:
        stream = _mix(stream * _WEYL + _mix(key + _WEYL))
    return stream


def uniforms(
    stream: Int64[Tensor, "..."],
    shape: Sequence[int],
    start: int | Int64[Tensor, "..."] = 0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "..."]:
    """Uniform numbers in the open interval (0, 1), ``shape`` of them for each stream.

    Args:
        stream: What :func:`streams` returned.
        shape: The shape of each row's numbers.
        start: Where in the stream to begin, counted in numbers; one for all streams or one for each.
        dtype: float32 carries 23 random bits a number, float64 carries 52.

    Raises:
        ValueError: If the dtype is another.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be float32 or float64; in {dtype} a uniform number can round to 1.")
    count = int(torch.Size(shape).numel())
    first = start[..., None] if isinstance(start, Tensor) else start
    counter = (torch.arange(1, count + 1, device=stream.device) + first) * _WEYL
    bits = 52 if dtype == torch.float64 else 23
    words = _shift_right(_mix(stream[..., None] + counter), 64 - bits)
    return ((words.to(dtype) + 0.5) * 2.0**-bits).unflatten(-1, tuple(shape))
