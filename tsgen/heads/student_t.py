r"""Mixtures of Student t laws, for values with wild outliers.

A Student t with :math:`\nu` degrees of freedom has tails like :math:`|z|^{-\nu - 1}`. A single wild value
therefore pulls its location by a bounded force, :math:`|\partial \log p / \partial \mu| \le (\nu + 1) / (2
\sigma \sqrt\nu)`, which falls to zero the further the value lies away; a Gaussian is pulled in proportion to
the distance.

The distribution function is computed to the last digits of either tail. With
:math:`p_0^2 = \frac{\nu}{2} \log(1 + t^2 / \nu)`,

.. math:: P(T > t) = \frac{1}{\nu B(\nu / 2, 1 / 2)} \int_{p_0}^\infty e^{-p^2} \frac{2 p \, dp}{\sqrt{1 -
    e^{-2 p^2 / \nu}}},

whose second factor is smooth and slowly varying, so that a few Gauss-Legendre nodes give it, with gradients
in t and in the degrees of freedom.

References:
    Polar generation of random variates with the t-distribution (Bailey, 1994). Evaluating probabilistic
    forecasts with scoringRules (Jordan, Krüger & Lerch, 2019), for the CRPS.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, StudentT

from tsgen.argument_types import check_arguments
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head, limited, positive
from tsgen.heads.in_data_units import InDataUnits
from tsgen.heads.intervals import WEIGHT, Reach
from tsgen.heads.mixture import initial_numbers
from tsgen.storage.display import printable

LOWEST_FREEDOM = 2.0
"""The degrees of freedom are above this, so that every law has a variance."""

HIGHEST_FREEDOM = 150.0
"""The degrees of freedom are below this: a Gaussian to within 0.0001 nats, and float32 keeps its digits."""

NODES = 12
"""Nodes of the quadrature of a tail."""

NEGLIGIBLE = 22.0
"""Tails are integrated down to a density of exp(-22) of its largest one."""

FAR = 1e9
"""The range of a law, in scales; no draw from uniform numbers in float32 lies further out."""

CRPS_NODES = 512
"""Nodes of the quadrature of the CRPS of a mixture."""


class StudentTLaw(StudentT):
    """Student t laws with a distribution function.

    Args:
        df: The degrees of freedom, above 1.
        loc: The location.
        scale: The scale.
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__(df, loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density, in nats; finite for every finite value."""
        z = (value - self.loc) / self.scale
        return _log_density(z, self.df) - self.scale.log()

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.scale.square() * self.df / (self.df - 2)

    def cdf(self, value: Tensor) -> Tensor:
        """Returns the distribution function."""
        z = (value - self.loc) / self.scale
        tail = log_tail(z.abs(), self.df).exp()
        return torch.where(z > 0, 1 - tail, tail)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Returns the logarithm of the probability between two numbers, in nats."""
        a, b = (_standardised(end, self.loc, self.scale) for end in (low, high))
        # in the upper tail the mirrored interval has the digits
        mirrored = a + b > 0
        a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
        width, middle = b - a, (a + b) / 2
        # narrow where the density hardly changes: over a share of the distance from the centre
        narrow = width < 0.02 * (1 + middle.abs())
        at_middle = _log_density(middle, self.df) + width.clamp(min=torch.finfo(width.dtype).tiny).log()
        a = torch.where(narrow, b - 1 - b.abs(), a)
        tails = log_tail(torch.stack([b.abs(), a.abs()]), self.df)
        upper = torch.where(b > 0, torch.log1p(-tails[0].exp()), tails[0])
        wide = upper + torch.log(-torch.expm1((tails[1] - upper).clamp(max=-1e-30)))
        return torch.where(narrow, at_middle, wide)


def _standardised(end: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns ends of intervals in scales from the location, at most :data:`FAR` from it."""
    infinite = end.isinf()
    # fill first: an infinite end has no gradient in the scale, and would give NaN
    z = (torch.where(infinite, 0, end) - loc) / scale
    return torch.where(infinite, end, z).clamp(-FAR * 10, FAR * 10)


def _log_power(z: Tensor, df: Tensor) -> Tensor:
    """Returns log(1 + z^2 / df), in which the square of a wild value must not overflow."""
    return (z / df.sqrt()).clamp(-1e15, 1e15).square().log1p()


def _log_density(z: Tensor, df: Tensor) -> Tensor:
    """Returns the log-density of standard Student t laws, in nats."""
    return -(df + 1) / 2 * _log_power(z, df) - _log_constant(df) - df.log() / 2


def _log_constant(df: Tensor) -> Tensor:
    """Returns the logarithm of the beta function of df / 2 and 1 / 2."""
    return torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + math.log(math.pi) / 2


_POINTS, _WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(NODES))


def log_tail(t: Float[Tensor, "..."], df: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns the logarithm of the probability of a Student t above numbers, in nats.

    Args:
        t: The numbers, at least 0.
        df: The degrees of freedom.
    """
    t = t.clamp(min=1e-9)  # the square root of its square has no gradient at zero
    square = df / 2 * _log_power(t, df)
    start = square.sqrt()
    # down to exp(-NEGLIGIBLE) of the first density, from where it falls by exp(-2 p0 r - r^2)
    length = NEGLIGIBLE / (start + (square + NEGLIGIBLE).sqrt())
    shape = (-1, *[1] * square.dim())
    points, weights = (x.to(square).view(shape) for x in ((_POINTS + 1) / 2, _WEIGHTS / 2))
    step = length * points
    p = start + step
    factor = 2 * p / (-torch.expm1(-2 * p.square() / df)).sqrt()
    total = (weights * (-step * (start + p)).exp() * factor).sum(dim=0) * length
    return total.log() - square - df.log() - _log_constant(df)


class StudentTMixture(MixtureSameFamily):
    """Mixtures of Student t laws.

    Args:
        logits: The logits of the components, on the last axis.
        component: The components.
    """

    def __init__(self, logits: Tensor, component: StudentTLaw) -> None:
        super().__init__(Categorical(logits=logits, validate_args=False), component, validate_args=False)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Returns the logarithm of the probability between two numbers, in nats."""
        component: Any = self.component_distribution
        masses = component.log_mass(low[..., None], high[..., None])
        return torch.logsumexp(self.mixture_distribution.logits + masses, dim=-1)

    def reach(self) -> Reach:
        """Returns the range of each law."""
        component: Any = self.component_distribution
        counts = self.mixture_distribution.probs > WEIGHT
        # the share of a component beyond q scales is at most (q^2 / df)^(-df / 2)
        far = component.df.sqrt() * (math.log(1e9) / component.df).exp()
        low, high = component.loc - far * component.scale, component.loc + far * component.scale
        ends = low.where(counts, torch.inf).amin(dim=-1), high.where(counts, -torch.inf).amax(dim=-1)
        centre = self.mean
        width = (self.mixture_distribution.probs * (component.loc - centre[..., None]).abs()).sum(dim=-1)
        return Reach(*ends, centre, width + component.scale.amin(dim=-1))

    def crps(self, truth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the CRPS of true values: in closed form for one component, else by quadrature."""
        component: Any = self.component_distribution
        if component.loc.shape[-1] == 1:
            return _crps(component, truth[..., None]).squeeze(-1)
        around = self.reach()
        inside = truth.detach().maximum(around.low).minimum(around.high)
        total: Any = (truth - inside).abs()
        for ends, after in ((around.part(around.low, inside), 0.0), (around.part(inside, around.high), 1.0)):
            shares = torch.linspace(0, 1, CRPS_NODES // 2 + 1, dtype=inside.dtype, device=inside.device)
            z = ends.at(shares.view(-1, *[1] * ends.low.dim()))
            squares = (self.cdf(z) - after).square()
            total = total + torch.trapezoid(squares, z, dim=0)
        return total


def _crps(law: StudentTLaw, truth: Tensor) -> Tensor:
    """Returns the CRPS of Student t laws."""
    z, df = (truth - law.loc) / law.scale, law.df
    standard = StudentTLaw(df, torch.zeros_like(z), torch.ones_like(z))
    density = (_log_density(z, df) + _log_power(z, df) + df.log()).exp()
    constant = _log_beta(df - 0.5) - 2 * _log_beta(df / 2)
    inner = z * (2 * standard.cdf(z) - 1) + 2 * density / (df - 1)
    return law.scale * (inner - 2 * df.sqrt() / (df - 1) * constant.exp())


def _log_beta(x: Tensor) -> Tensor:
    """Returns the logarithm of the beta function of 1 / 2 and x."""
    return torch.lgamma(x) - torch.lgamma(x + 0.5) + math.log(math.pi) / 2


def student_t_draw(law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
    r"""Draws from mixtures of Student t: the first number picks a component, the others give its draw.

    With numbers u and v, :math:`\sqrt{\nu (u^{-2 / \nu} - 1)} \cos 2 \pi v` has :math:`\nu` degrees of
    freedom. The gradient of a mixture is that of its quantile function, as in
    :func:`~tsgen.heads.mixture.mixture_quantile`.

    Args:
        law: The mixtures.
        uniforms: Three numbers in (0, 1) per entry. Additional axes in front give several draws.
    """
    component: Any = law.component_distribution
    passed = uniforms[..., :1] > law.mixture_distribution.probs.cumsum(dim=-1)[..., :-1]
    chosen = passed.sum(dim=-1, keepdim=True)
    df, loc, scale = (
        x.expand(*chosen.shape[:-1], -1).gather(-1, chosen).squeeze(-1)
        for x in (component.df, component.loc, component.scale)
    )
    radius = (df * torch.expm1(-2 / df * uniforms[..., 1].log())).sqrt()
    x = loc + scale * radius * torch.cos(2 * math.pi * uniforms[..., 2])
    if not x.requires_grad or component.loc.shape[-1] == 1:
        return x
    x = x.detach()
    cdf = law.cdf(x)
    density = law.log_prob(x).detach().exp().clamp(min=1e-30)
    return x - (cdf - cdf.detach()) / density


@check_arguments
class StudentTHead(Head):
    r"""A mixture of K Student t laws whose logits, locations, log-scales and degrees of freedom are affine in
    the state, the last through a sigmoid onto the numbers from 2 to 150.

    It is the robust head: a single wild value moves its parameters by a bounded step.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        components: The number K of components.

    Raises:
        ValueError: If ``components`` is below 1.
    """

    uniforms_per_entry = 3
    has_cdf = has_icdf = closed_crps = follows_support = True

    def __init__(self, hidden: int, sizes: Sizes, components: int = 1) -> None:
        super().__init__(hidden, sizes)
        initial = initial_numbers(components)
        # about six degrees of freedom
        freedom = torch.full((1, components), -3.6)
        self.components = components
        self.linear = nn.Linear(hidden, 4 * components * sizes.channels)
        with torch.no_grad():
            self.linear.bias.copy_(torch.cat([initial, freedom]).repeat(sizes.channels, 1, 1).flatten())

    @property
    def num_parameters_per_entry(self) -> int:
        """4 K (hidden + 1), one affine map each for logits, locations, log-scales and degrees of freedom."""
        return 4 * self.components * (self.hidden + 1)

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` if values grow exponentially with their images.

        Args:
            data: The data module.
            stage: What is about to run: fit, validate, test or predict.
        """
        for name, transform in zip(data.spec.channels, data.spec.transforms or [], strict=False):
            if transform.name in ("log", "log1p"):
                raise ValueError(
                    f"StudentTHead needs a transform under which its laws have a mean; {printable(name)} has "
                    f"{transform.name}. Set data.transform to box_cox, yeo_johnson or spline, which continue "
                    "as a straight line."
                )

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry, in data units."""
        numbers = self.linear(h).unflatten(-1, (self.sizes.channels, 4, self.components))
        logits, mean, log_scale, freedom = numbers.unbind(-2)
        mean, scale = limited(mean, positive(log_scale), units)
        df = LOWEST_FREEDOM + (HIGHEST_FREEDOM - LOWEST_FREEDOM) * (1e-4 + freedom.sigmoid()) / 1.0001
        return InDataUnits(StudentTMixture(logits, StudentTLaw(df, mean, scale)), units)

    def quantile(
        self, law: InDataUnits, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Turns three uniform numbers per entry into a draw, by :func:`student_t_draw`."""
        return law.units.unstandardise(student_t_draw(law.law, uniforms))
