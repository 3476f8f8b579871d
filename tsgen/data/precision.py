"""The precision of numbers that are read, and conversions that keep at least a given precision.

Values, covariates and positions keep the precision of their source, float32 or float64; integers become
float64. A model converts them to the precision of its network only after it has standardised them: a reading
of 2e8 with a swing of 1 has no digit of the swing in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor


def floating(numbers: np.ndarray) -> np.ndarray:
    """Returns a copy of numbers, in float32 if they have no higher precision and in float64 otherwise.

    Args:
        numbers: Numbers of any type.
    """
    return numbers.astype(floating_type(numbers.dtype))


def floating_type(*types: np.dtype) -> np.dtype:
    """Returns the precision in which numbers of all these types are kept.

    Args:
        types: Types of numbers.
    """
    single = all(kind.kind == "f" and kind.itemsize <= 4 for kind in types)
    return np.dtype(np.float32 if single else np.float64)


def at_least(dtype: torch.dtype, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a conversion of tensors that keeps at least a given precision.

    ``nn.Module.to`` and Lightning's half-precision plugins convert every floating-point tensor of a module.
    Units, sums and laws would be rounded to three digits.

    Args:
        dtype: The lowest precision of a converted tensor.
        convert: The conversion, between precisions, devices or both.
    """

    def converted(x: Tensor) -> Tensor:
        new = convert(x)
        if not new.is_floating_point() or torch.finfo(new.dtype).bits >= torch.finfo(dtype).bits:
            return new
        return x.to(new.device, dtype)

    return converted


def raise_without_float64(error: Exception) -> NoReturn:
    """Raises ``ValueError`` if an error says that a device has no float64, and the error itself otherwise.

    Args:
        error: The error that a conversion to the device raised.
    """
    if "float64" not in str(error):
        raise error
    raise ValueError(
        "a model keeps the units of its data in float64, which the device must support; Apple's GPUs (mps) "
        "do not. Use the CPU: trainer.accelerator: cpu, or device='cpu'."
    ) from error
