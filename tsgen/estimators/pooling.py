r"""Rubin's rules: one estimate, with its uncertainty, from the analyses of several imputations.

Each of m completed data sets is analysed as if it were complete, and gives an estimate :math:`q_i` with the
variance :math:`u_i`. With the mean :math:`\bar q` of the estimates, the mean :math:`\bar u` of the variances
(within) and the variance b of the estimates (between), the pooled estimate is :math:`\bar q` and its variance

.. math:: t = \bar u + (1 + 1/m) b.

With :math:`r = (1 + 1/m) b / \bar u` and :math:`\lambda = (1 + 1/m) b / t`, intervals are those of
Student's law with :math:`\nu` degrees of freedom,

.. math:: \nu_m = (m - 1) (1 + 1/r)^2, \quad
          \nu_o = \frac{\nu_c + 1}{\nu_c + 3} \nu_c (1 - \lambda), \quad
          1/\nu = 1/\nu_m + 1/\nu_o,

where :math:`\nu_c` are the degrees of freedom of the analysis if nothing were missing. The fraction of
information that is missing is :math:`(r + 2 / (\nu + 3)) / (r + 1)`.

The rules hold for joint draws of all missing values from their posterior.

References:
    Multiple Imputation for Nonresponse in Surveys (Rubin, 1987), section 3.3; Small-sample degrees of freedom
    with multiple imputation (Barnard and Rubin, Biometrika 86, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from tsgen.argument_types import check_arguments


@dataclass(frozen=True)
class Pooled:
    """The pooled result of analyses of several imputations; each field has one number per estimated quantity.

    Attributes:
        estimate: The estimate.
        variance: Its total variance.
        within: The mean of the variances of the analyses.
        between: The variance of the estimates of the analyses.
        missing_information: The fraction of the information on the quantity that is missing, in 0..1.
        degrees_of_freedom: The degrees of freedom of Student's law.
    """

    estimate: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]
    within: Float[np.ndarray, "..."]
    between: Float[np.ndarray, "..."]
    missing_information: Float[np.ndarray, "..."]
    degrees_of_freedom: Float[np.ndarray, "..."]

    @property
    def standard_error(self) -> Float[np.ndarray, "..."]:
        """The square root of the total variance."""
        return np.sqrt(self.variance)

    @check_arguments
    def interval(self, level: float = 0.95) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Returns the lower and the upper bound of a confidence interval of each quantity.

        Args:
            level: The confidence.

        Raises:
            ValueError: If ``level`` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be a probability between 0 and 1; it is {level}.")
        half = stats.t.ppf((1 + level) / 2, self.degrees_of_freedom) * self.standard_error
        return self.estimate - half, self.estimate + half


@check_arguments
def pool(
    fit: Callable[[Any], tuple[Any, Any]], draws: Iterable[Any], degrees_of_freedom: float = math.inf
) -> Pooled:
    r"""Analyses each of several imputations and pools the results by Rubin's rules.

    Args:
        fit: Returns the estimates of one completed data set and their variances (squared standard errors),
            numbers or arrays of one shape.
        draws: The completed data sets, at least two. An ``xarray.DataArray`` with the draws along its first
            axis gives one DataArray for each, whose ``to_pandas()`` is a frame.
        degrees_of_freedom: Those of the analysis if nothing were missing: for a regression, rows minus
            coefficients. Infinite for a large sample.

    Raises:
        ValueError: If there are fewer than two draws, an estimate or variance is not finite, a variance is
            not positive, or shapes differ.

    Example:
        The mean of a column of which two of five values were imputed, three times:

        >>> import numpy as np
        >>> columns = [np.array([1.0, 2.0, 3.0, a, b]) for a, b in [(2.0, 4.0), (3.0, 3.0), (1.0, 2.0)]]
        >>> pooled = pool(lambda x: (x.mean(), x.var(ddof=1) / len(x)), columns, degrees_of_freedom=4)
        >>> round(float(pooled.estimate), 3), round(float(pooled.standard_error), 3)
        (2.2, 0.544)
        >>> round(float(pooled.missing_information), 2), round(float(pooled.degrees_of_freedom), 1)
        (0.73, 1.6)
    """
    if not degrees_of_freedom > 0:
        raise ValueError(f"degrees_of_freedom must be positive; it is {degrees_of_freedom}.")
    results = [fit(completed) for completed in draws]
    if len(results) < 2:
        raise ValueError(f"draws must be at least 2 completed data sets; there are {len(results)}.")
    try:
        found = np.array([[np.asarray(x, dtype=np.float64) for x in result] for result in results])
    except (TypeError, ValueError) as error:
        raise ValueError(
            "fit must return estimates and variances, numbers of one shape for all draws; it returned others."
        ) from error
    if found.ndim < 2 or found.shape[1] != 2:
        raise ValueError("fit must return two things, estimates and variances; it returned others.")
    estimates, variances = found[:, 0], found[:, 1]
    if not np.isfinite(found).all() or not (variances > 0).all():
        raise ValueError(
            "estimates and variances of each draw must be finite, and variances positive; some are not."
        )
    number = len(results)
    within, between = variances.mean(axis=0), estimates.var(axis=0, ddof=1)
    imputed = (1 + 1 / number) * between
    total, ratio = within + imputed, imputed / within
    with np.errstate(divide="ignore"):  # draws that agree leave infinitely many degrees of freedom
        inverse = 1 / ((number - 1) * (1 + 1 / ratio) ** 2)
    if math.isfinite(degrees_of_freedom):
        share = (degrees_of_freedom + 1) / (degrees_of_freedom + 3) * degrees_of_freedom
        inverse = inverse + 1 / (share * (1 - imputed / total))
    with np.errstate(divide="ignore"):
        freedom = 1 / inverse
    information = (ratio + 2 / (freedom + 3)) / (ratio + 1)
    return Pooled(estimates.mean(axis=0), total, within, between, information, freedom)
