r"""Exact algebra of multivariate normal laws.

A law is stored as :math:`X = m + R z` with :math:`z \sim N(0, I)`: a mean m and a square root R of the
covariance, :math:`R R^\top = \Sigma`, initially its Cholesky factor. Every operation is linear algebra on
roots:

* affine map: :math:`A X + b = (A m + b) + (A R) z`;
* sum of independent variables: :math:`X + Y = (m_X + m_Y) + (R_X, R_Y) (z_X, z_Y)`;
* marginal: the corresponding rows of m and R;
* conditional of the remaining entries r given :math:`X_o = x`: write :math:`R_o = L Q^\top` with L lower
  triangular and Q with orthonormal columns. The observation determines the component
  :math:`Q^\top z = L^{-1} (x - m_o)`; the orthogonal component of z is independent of it, so that

  .. math:: X_r = m_r + R_r Q L^{-1} (x - m_o) + R_r (I - Q Q^\top) z.

  L is the Cholesky factor of :math:`\Sigma_{oo}`, found from a QR decomposition of :math:`R_o^\top`. This is
  the textbook result :math:`m_r + \Sigma_{ro} \Sigma_{oo}^{-1} (x - m_o)` and
  :math:`\Sigma_{rr} - \Sigma_{ro} \Sigma_{oo}^{-1} \Sigma_{or}`, computed without an inverse and without the
  difference, in which a small variance would be lost to the rounding errors of large ones. The condition
  number of a root is the square root of that of the covariance.

R need not be square. If it has fewer columns than rows, or is rank-deficient for another reason, the law is
degenerate: it is supported on a subspace and has no density. All operations except those that need a density
work for degenerate laws too.

References:
    Pattern Recognition and Machine Learning (Bishop, 2006), section 2.3;
    The Matrix Cookbook (Petersen & Pedersen, 2012), section 8;
    Linear Estimation (Kailath, Sayed & Hassibi, 2000), ch. 12, for computing with roots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, constraints, kl_divergence
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property
from torch.nn.functional import pad

from tsgen.argument_types import check_arguments, check_shapes


@check_arguments
class Gaussian(Distribution):
    r"""The multivariate normal law :math:`N(m, \Sigma)`, closed under linear operations.

    A ``torch.distributions.Distribution``, batched over leading dimensions, which broadcast, and
    differentiable in all arguments. Operations return results in the law's own precision and on its device.

    >>> x = Gaussian(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> x.condition([0], torch.tensor([1.0])).mean
    tensor([0.5000])
    >>> (2 * x + x).variance  # the terms of a sum are independent, even if they are the same object
    tensor([10.0000, 10.0000])

    Args:
        loc: The mean m.
        covariance: The covariance, symmetric and positive definite. To build a degenerate law, take the
            affine image of a smaller one with :meth:`affine`.

    Raises:
        ValueError: If a shape does not fit, an entry is not finite, or the covariance is not symmetric
            positive definite up to rounding.
    """

    arg_constraints = {"loc": constraints.real_vector}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    loc: Tensor
    _root: Tensor
    """The root R; its batch dimensions broadcast against those of ``loc``."""
    _triangular: bool
    """Whether R is known to be the Cholesky factor: lower triangular, with a positive diagonal."""

    def __init__(
        self, loc: Float[Tensor, "*#batch size"], covariance: Float[Tensor, "*#batch size size"]
    ) -> None:
        if loc.dim() == 0 or loc.shape[-1] == 0:
            raise ValueError(
                f"loc must have shape [..., size] with size at least 1; it has {list(loc.shape)}."
            )
        size = loc.shape[-1]
        dtype = torch.promote_types(loc.dtype, covariance.dtype)
        if not dtype.is_floating_point:
            raise ValueError(f"loc and covariance must be floating-point numbers; they are {dtype}.")
        loc = _checked("loc", loc.to(dtype), (size,))
        covariance = _checked("covariance", covariance.to(loc), (size, size), loc.shape[:-1])
        self._initialise(loc, _cholesky(covariance), triangular=True)

    @classmethod
    def _from_root(cls, loc: Tensor, root: Tensor, triangular: bool = False) -> Gaussian:
        law = cls.__new__(cls)
        # a wide root is made square, as it would grow in a recursion; QR has a gradient only at full rank
        if root.shape[-1] > root.shape[-2] == _rank(root):
            root, triangular = _triangular(root), True
        law._initialise(loc, root, triangular)
        return law

    def _initialise(self, loc: Tensor, root: Tensor, triangular: bool) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], root.shape[:-2])
        self.loc = loc.expand(*batch_shape, -1)
        self._root, self._triangular = root, triangular
        # the callers have checked the arguments, with more helpful messages
        super().__init__(batch_shape, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> Gaussian:
        """Returns the same law with expanded batch dimensions.

        Args:
            batch_shape: The new batch dimensions.

        Raises:
            ValueError: If the law cannot be expanded to them.
        """
        own, batch_shape = self.batch_shape, [int(size) for size in batch_shape]
        fits = len(batch_shape) >= len(own) and all(
            size >= 0 and has in (1, size) for has, size in zip(own[::-1], batch_shape[::-1], strict=False)
        )
        if not fits or min(batch_shape, default=0) < 0:
            raise ValueError(f"batch_shape must expand {list(own)}; it is {list(batch_shape)!s:.60}.")
        return Gaussian._from_root(self.loc.expand(*batch_shape, -1), self._root, self._triangular)

    @property
    def _size(self) -> int:
        return self.loc.shape[-1]

    @property
    def covariance(self) -> Float[Tensor, "*batch size size"]:
        r"""The covariance :math:`R R^\top`."""
        return (self._root @ self._root.mT).expand(*self.batch_shape, -1, -1)

    @property
    def mean(self) -> Float[Tensor, "*batch size"]:
        """The mean, equal to ``loc``."""
        return self.loc

    @property
    def mode(self) -> Float[Tensor, "*batch size"]:
        """The mode, equal to ``loc``."""
        return self.loc

    @property
    def variance(self) -> Float[Tensor, "*batch size"]:
        """The variance of each entry."""
        return self._root.square().sum(dim=-1).expand_as(self.loc)

    @lazy_property
    def distribution(self) -> MultivariateNormal:
        """The law as a ``torch.distributions.MultivariateNormal``.

        Raises:
            ValueError: If the law is degenerate.
        """
        if self._triangular:
            return MultivariateNormal(self.loc, scale_tril=self._root)
        rank = _rank(self._root)
        if rank < self._size:
            raise ValueError(
                f"a density needs a covariance of full rank; this one has rank {rank} and size {self._size}. "
                "The law is degenerate: take a marginal of entries that do not determine each other, or add "
                "noise."
            )
        return MultivariateNormal(self.loc, scale_tril=_triangular(self._root))

    @check_shapes
    def log_prob(self, value: Float[Tensor, "*values size"]) -> Float[Tensor, "..."]:
        r"""Returns the log-density in nats,

        .. math:: -\tfrac12 \left( n \log 2\pi + \log |\Sigma| + (x - m)^\top \Sigma^{-1} (x - m) \right).

        Args:
            value: The points x.

        Raises:
            ValueError: If the law is degenerate.

        References:
            The Matrix Cookbook (Petersen & Pedersen, 2012), section 8.1.1.
        """
        if value.shape[-1:] != self.loc.shape[-1:] or not value.numel():
            raise ValueError(
                f"value must hold points of {self._size} numbers each; its shape is {list(value.shape)}."
            )
        if value.isnan().any():
            raise ValueError(
                f"value must lie within the support, the real numbers; {int(value.isnan().sum())} are NaN."
            )
        return self.distribution.log_prob(value)

    def entropy(self) -> Float[Tensor, "*batch"]:
        r"""Returns the differential entropy in nats, :math:`\tfrac12 \log |2 \pi e \Sigma|`.

        Raises:
            ValueError: If the law is degenerate.

        References:
            Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), eq. A.20.
        """
        return self.distribution.entropy()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*samples size"]:
        """Draws m + R z, differentiable with respect to m and R; a degenerate law can be sampled too.

        Args:
            sample_shape: Shape of the draws from each law of the batch.
        """
        shape = (*sample_shape, *self.batch_shape, self._root.shape[-1])
        normal = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + _apply(self._root, normal)

    def affine(
        self, matrix: Float[Tensor, "*#batch out size"], offset: Float[Tensor, "*#batch out"] | float = 0.0
    ) -> Gaussian:
        r"""Returns the law of :math:`A X + b`,

        .. math:: A X + b \sim N(A m + b, A \Sigma A^\top).

        It is degenerate if A has more rows than columns, or linearly dependent rows.

        Args:
            matrix: The matrix A.
            offset: The vector b.

        Raises:
            ValueError: If a shape does not fit or an entry is not finite.

        References:
            The Matrix Cookbook (Petersen & Pedersen, 2012), section 8.1.4.
        """
        return Gaussian._from_root(*self._image(matrix, offset))

    def __add__(self, other: Gaussian | Float[Tensor, "*#batch size"] | float) -> Gaussian:
        r"""Returns the law of X + Y for an independent Y, or of X + c for a constant c,

        .. math:: X + Y \sim N(m_X + m_Y, \Sigma_X + \Sigma_Y).

        The sum of an object with itself is that of two independent variables with the same law; twice the
        same variable is ``2 * X``.

        References:
            The Matrix Cookbook (Petersen & Pedersen, 2012), section 8.1.4.
        """
        if not isinstance(other, Gaussian):
            constant = self._vector("a constant", other, self._size)
            return Gaussian._from_root(self.loc + constant, self._root, self._triangular)
        if other._size != self._size:
            raise ValueError(
                f"laws in a sum must have the same size; the sizes are {self._size} and {other._size}."
            )
        _checked("the second law", other.loc, (self._size,), self.batch_shape)
        return Gaussian._from_root(self.loc + other.loc, _cat([self._root, other._root], dim=-1))

    __radd__ = __add__

    def __mul__(self, coefficient: Float[Tensor, ""] | float) -> Gaussian:
        """Returns the law of a X for a number a."""
        if isinstance(coefficient, Gaussian):  # the product of two normal variables is not normal
            return NotImplemented
        number = self._tensor(coefficient)
        if number.dim() > 0:
            raise ValueError(
                f"a coefficient must be a single number; its shape is {list(number.shape)}. "
                "Use affine() to apply a matrix."
            )
        number = _checked("a coefficient", number, ())
        return Gaussian._from_root(number * self.loc, number * self._root)

    __rmul__ = __mul__

    def __neg__(self) -> Gaussian:
        return -1 * self

    def __sub__(self, other: Gaussian | Float[Tensor, "*#batch size"] | float) -> Gaussian:
        return self + -other

    def __rsub__(self, other: Float[Tensor, "*#batch size"] | float) -> Gaussian:
        return -self + other

    def marginal(self, indices: Sequence[int] | Int[Tensor, "kept"]) -> Gaussian:
        r"""Returns the law of some entries, in the given order: :math:`X_i \sim N(m_i, \Sigma_{ii})`.

        Args:
            indices: Which entries; negative indices count from the end.

        Raises:
            ValueError: If an index is out of range or given twice, or the list is empty.

        References:
            The Matrix Cookbook (Petersen & Pedersen, 2012), section 8.1.2.
        """
        kept = self._positions(indices)
        if len(kept) == 0:
            raise ValueError("indices must name at least one entry; the list is empty.")
        return Gaussian._from_root(self.loc[..., kept], self._root[..., kept, :])

    def condition(
        self, indices: Sequence[int] | Int[Tensor, "given"], values: Float[Tensor, "*#batch given"]
    ) -> Gaussian:
        r"""Returns the law of the remaining entries r, in their order, given the values x of some entries o,

        .. math:: X_r \mid X_o = x \;\sim\; N(m_r + \Sigma_{ro} \Sigma_{oo}^{-1} (x - m_o),\;
                  \Sigma_{rr} - \Sigma_{ro} \Sigma_{oo}^{-1} \Sigma_{or}).

        Args:
            indices: Which entries are given; negative indices count from the end.
            values: Their values, in the same order.

        Raises:
            ValueError: If an index is out of range or given twice, no entry remains, a value is not finite,
                or the given entries determine each other.

        References:
            Pattern Recognition and Machine Learning (Bishop, 2006), eq. 2.81 and 2.82;
            The Matrix Cookbook (Petersen & Pedersen, 2012), section 8.1.3.
        """
        given = self._positions(indices)
        if len(given) == self._size:
            raise ValueError(f"at least one entry must remain; all {self._size} are given.")
        values = _checked("values", values.to(self.loc), (len(given),), self.batch_shape)
        is_remaining = torch.ones(self._size, dtype=torch.bool, device=given.device)
        is_remaining[given] = False
        remaining = is_remaining.nonzero()[:, 0]
        given_root, remaining_root = self._root[..., given, :], self._root[..., remaining, :]
        rank = _rank(given_root)
        if rank < len(given):
            raise ValueError(
                f"the covariance of the given entries must have full rank; it has rank {rank} and size "
                f"{len(given)}. Condition on entries that do not determine each other."
            )
        basis, upper = torch.linalg.qr(given_root.mT)
        projected = remaining_root @ basis
        gain = torch.linalg.solve_triangular(upper.mT, projected, upper=False, left=False)
        loc = self.loc[..., remaining] + _apply(gain, values - self.loc[..., given])
        root = remaining_root - projected @ basis.mT
        # an entry determined by the given ones has no variance left: remove the rounding error too
        scale = remaining_root.detach().norm(dim=-1, keepdim=True)
        rounding = 8 * self._size * torch.finfo(root.dtype).eps * scale
        root = torch.where(root.detach().norm(dim=-1, keepdim=True) > rounding, root, 0)
        return Gaussian._from_root(loc, root)

    def predict(
        self,
        matrix: Float[Tensor, "*#batch out size"],
        offset: Float[Tensor, "*#batch out"] | float,
        covariance: Float[Tensor, "*#batch out out"],
    ) -> Gaussian:
        r"""Returns the law of Y, where :math:`Y \mid X \sim N(A X + b, S)`,

        .. math:: Y \sim N(A m + b, S + A \Sigma A^\top).

        Args:
            matrix: The matrix A.
            offset: The vector b.
            covariance: The covariance S of the noise.

        Raises:
            ValueError: If a shape does not fit, an entry is not finite, or S is not symmetric positive
                definite.

        References:
            Pattern Recognition and Machine Learning (Bishop, 2006), eq. 2.115.
        """
        loc, root = self._image(matrix, offset)
        noise = Gaussian(loc, covariance.to(loc))
        return Gaussian._from_root(loc, _cat([root, noise._root], dim=-1))

    def joint(
        self,
        matrix: Float[Tensor, "*#batch out size"],
        offset: Float[Tensor, "*#batch out"] | float,
        covariance: Float[Tensor, "*#batch out out"],
    ) -> Gaussian:
        r"""Returns the law of (X, Y), where :math:`Y \mid X \sim N(A X + b, S)`,

        .. math:: \begin{pmatrix} X \\ Y \end{pmatrix}
                  \sim N\left( \begin{pmatrix} m \\ A m + b \end{pmatrix}, \begin{pmatrix}
                  \Sigma & \Sigma A^\top \\ A \Sigma & S + A \Sigma A^\top \end{pmatrix} \right).

        Args:
            matrix: The matrix A.
            offset: The vector b.
            covariance: The covariance S of the noise.

        Raises:
            ValueError: As for :meth:`predict`.

        References:
            Pattern Recognition and Machine Learning (Bishop, 2006), eq. 2.105 and 2.108.
        """
        loc, root = self._image(matrix, offset)
        noise = Gaussian(loc, covariance.to(loc))
        above = pad(self._root, (0, noise._size))
        below = _cat([root, noise._root], dim=-1)
        both = torch.cat([self.loc.expand(*loc.shape[:-1], -1), loc], dim=-1)
        return Gaussian._from_root(both, _cat([above, below], dim=-2))

    def observe(
        self,
        matrix: Float[Tensor, "*#batch out size"],
        offset: Float[Tensor, "*#batch out"] | float,
        covariance: Float[Tensor, "*#batch out out"],
        values: Float[Tensor, "*#batch out"],
    ) -> Gaussian:
        r"""Returns the law of X given Y = y, where :math:`Y \mid X \sim N(A X + b, S)`,

        .. math:: X \mid Y = y \;\sim\; N(m + K (y - A m - b),\; \Sigma - K A \Sigma), \qquad
                  K = \Sigma A^\top (S + A \Sigma A^\top)^{-1}.

        This is the update of the Kalman filter, in its square-root form.

        Args:
            matrix: The matrix A.
            offset: The vector b.
            covariance: The covariance S of the noise.
            values: The observation y.

        Raises:
            ValueError: As for :meth:`predict`, or if a value is not finite.

        References:
            Pattern Recognition and Machine Learning (Bishop, 2006), eq. 2.116 and 2.117, by the matrix
            inversion lemma.
        """
        joint = self.joint(matrix, offset, covariance)
        return joint.condition(range(self._size, joint._size), values)

    def _image(self, matrix: Tensor, offset: Tensor | float) -> tuple[Tensor, Tensor]:
        """Returns mean and root of A X + b, with the same z as X."""
        matrix = matrix.to(self.loc)
        rows = matrix.shape[-2] if matrix.dim() > 1 else 1
        matrix = _checked("matrix", matrix, (max(rows, 1), self._size), self.batch_shape)
        offset = self._vector("offset", offset, rows)
        return _apply(matrix, self.loc) + offset, matrix @ self._root

    def _tensor(self, value: Tensor | float) -> Tensor:
        # without dtype=, a Python number would first be rounded to single precision
        return torch.as_tensor(value, dtype=self.loc.dtype, device=self.loc.device)

    def _vector(self, name: str, value: Tensor | float, size: int) -> Tensor:
        vector = self._tensor(value)
        return _checked(name, vector if vector.dim() else vector.expand(size), (size,), self.batch_shape)

    def _positions(self, indices: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(indices, device=self.loc.device)
        if index.dim() != 1 or (len(index) and (index.is_floating_point() or index.dtype == torch.bool)):
            raise ValueError(
                f"indices must be a list of integers; they are {index.dtype} of shape {list(index.shape)}."
            )
        outside = index[(index < -self._size) | (index >= self._size)]
        if len(outside):
            raise ValueError(
                f"an index must lie in {-self._size}..{self._size - 1}, for size {self._size}; it is "
                f"{int(outside[0])}."
            )
        index = index.long() % self._size
        if len(index.unique()) < len(index):
            raise ValueError(f"indices must be distinct; they are {index.tolist()}.")
        return index


@register_kl(Gaussian, Gaussian)
def _kl_divergence(p: Gaussian, q: Gaussian) -> Float[Tensor, "..."]:
    r"""Returns the Kullback-Leibler divergence of two laws of full rank in nats,

    .. math:: KL(p \| q) = \tfrac12 \left( \operatorname{tr} \Sigma_q^{-1} \Sigma_p
              + (m_q - m_p)^\top \Sigma_q^{-1} (m_q - m_p) - n + \log \frac{|\Sigma_q|}{|\Sigma_p|} \right).

    Raises:
        ValueError: If a law is degenerate or the sizes differ.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), eq. A.23.
    """
    return kl_divergence(p.distribution, q.distribution)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, vector)


def _cat(matrices: Sequence[Tensor], dim: int) -> Tensor:
    batch_shape = torch.broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    return torch.cat([matrix.expand(*batch_shape, -1, -1) for matrix in matrices], dim=dim)


def _checked(name: str, value: Tensor, shape: tuple[int, ...], batch_shape: Sequence[int] = ()) -> Tensor:
    """Returns the tensor; raises unless it ends in this shape, its batch dimensions broadcast and it is
    finite."""
    leading = value.shape[: value.dim() - len(shape)]
    try:
        torch.broadcast_shapes(leading, batch_shape)
        fits = value.shape == leading + shape
    except RuntimeError:
        fits = False
    if not fits:
        batched = f" and batch dimensions that broadcast with {list(batch_shape)}" if batch_shape else ""
        wanted = ", ".join(["...", *map(str, shape)])
        raise ValueError(f"{name} must have shape [{wanted}]{batched}; it has {list(value.shape)}.")
    if not torch.isfinite(value).all():
        raise ValueError(
            f"{name} must be finite; {int((~torch.isfinite(value)).sum())} of its entries are not."
        )
    return value


def _cholesky(covariance: Float[Tensor, "*batch size size"]) -> Float[Tensor, "*batch size size"]:
    """Returns the Cholesky factor; raises unless the covariance is symmetric positive definite."""
    precision = torch.finfo(covariance.dtype).eps
    # units may differ by many orders of magnitude, so tolerances apply to the correlations
    scale = covariance.detach().diagonal(dim1=-2, dim2=-1).abs().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    correlation = covariance.detach() / (scale[..., :, None] * scale[..., None, :])
    skew = correlation - correlation.mT
    if (skew.abs() > precision**0.5).any():
        skew = (covariance - covariance.mT).abs().max()
        raise ValueError(f"covariance must be symmetric; it differs from its transpose by {float(skew):.3g}.")
    factor, info = torch.linalg.cholesky_ex(covariance)
    # rounding errors may let Cholesky succeed if a row is a linear combination of the others
    failed = (torch.linalg.eigvalsh(correlation)[..., 0] < 10 * precision) | (info > 0)
    if failed.any():
        smallest = float(torch.linalg.eigvalsh(covariance[failed]).min())
        raise ValueError(
            f"covariance must be positive definite; its smallest eigenvalue is {smallest:.6g}. "
            "Build a degenerate law as the affine image of a smaller law: Gaussian(...).affine(matrix, "
            "offset)."
        )
    return factor


def _rank(root: Float[Tensor, "*batch size columns"]) -> int:
    """Returns the smallest rank in the batch, with entries in units of their standard deviations."""
    scale = root.detach().norm(dim=-1, keepdim=True)
    if not torch.isfinite(scale).all():
        raise ValueError(
            f"entries must be finite, and so must their squares, in {root.dtype}; the largest is "
            f"{float(root.detach().abs().max())}."
        )
    rank = torch.linalg.matrix_rank(root.detach() / torch.where(scale > 0, scale, 1))
    return int(rank.min()) if rank.numel() else root.shape[-2]


def _triangular(root: Float[Tensor, "*batch size columns"]) -> Float[Tensor, "*batch size size"]:
    r"""Returns the Cholesky factor of :math:`R R^\top` without forming the product; R must have full rank."""
    upper = torch.linalg.qr(root.mT).R
    # QR does not fix the signs of the diagonal
    return upper.mT * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
