r"""Random numbers as a pure function of (seed, keys, counter).

An ordinary generator returns numbers in the order of the calls, so the numbers of a window depend on its
batch, the number of processes and all earlier draws. Here every number is computed from its own address: the
stream of a row is a hash of the seed and the row's keys (window, epoch, sample), and the i-th number of the
stream is a hash of the stream and i. Results are therefore independent of batch size, workers, processes and
interruptions, and CPU and GPU agree. The hash is SplitMix64's finaliser over a Weyl sequence.

References:
    Fast splittable pseudorandom number generators (Steele, Lea & Flood, 2014);
    Parallel random numbers: as easy as 1, 2, 3 (Salmon et al., 2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def _signed(word: int) -> int:
    """Returns an unsigned 64-bit word as the signed integer that torch stores."""
    return word - (1 << 64) if word >= 1 << 63 else word


_WEYL = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Returns the logical right shift; torch's own operator keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def streams(seed: int, *keys: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Returns one stream per row, from the seed and any number of integer keys, which broadcast together.

    Args:
        seed: Any integer.
        keys: Integers that identify a row, such as window, epoch and sample. Their order matters.
    """
    stream = torch.full(
        (), _signed(int(seed) % (1 << 64)), dtype=torch.int64, device=keys[0].device if keys else None
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
    """Returns uniform numbers in the open interval (0, 1), with shape ``shape`` for each stream.

    Args:
        stream: Streams, from :func:`streams`.
        shape: The shape of each row's numbers.
        start: Position in the stream of the first number, one for all streams or one for each.
        dtype: float32 numbers have 23 random bits each, float64 numbers 52.

    Raises:
        ValueError: If the dtype is neither float32 nor float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be float32 or float64; it is {dtype}, in which a uniform number could round to 1."
        )
    count = math.prod(shape)
    if count * max(stream.numel(), 1) >= 2**60:
        raise MemoryError(f"not enough memory for {count} random numbers of {stream.numel()} streams")
    first = start[..., None] if isinstance(start, Tensor) else start
    counter = (torch.arange(1, count + 1, device=stream.device) + first) * _WEYL
    bits = 52 if dtype == torch.float64 else 23
    words = _shift_right(_mix(stream[..., None] + counter), 64 - bits)
    return ((words.to(dtype) + 0.5) * 2.0**-bits).unflatten(-1, tuple(shape))
