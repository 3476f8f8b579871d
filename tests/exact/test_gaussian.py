"""Normal laws against published numbers, scipy, fifty digits and the rules that they must obey."""

import math
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Distribution, MultivariateNormal, Normal, kl_divergence

from tsgen.exact.gaussian import Gaussian

PAGE = Path(__file__).parents[2] / "docs" / "gaussian.md"

check = settings(deadline=None, max_examples=50, derandomize=True)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 5)
batches = st.sampled_from([(), (3,), (2, 1)])


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_covariance(size: int, seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    """Well-conditioned but for the units of its entries, which differ by orders of magnitude."""
    root = normals(seed, *batch, size, size)
    unit = 10 ** normals(seed + 1, size)
    return (root @ root.mT / size + torch.eye(size)) * unit[:, None] * unit


def make_law(size: int, seed: int, batch: tuple[int, ...] = ()) -> Gaussian:
    return Gaussian(normals(seed + 2, *batch, size), make_covariance(size, seed, batch))


def assert_same(law: Gaussian, other: Gaussian, tolerance: float = 1e-10) -> None:
    """Equal means and covariances, in standard deviations."""
    assert law.batch_shape == other.batch_shape
    scale = other.variance.sqrt()
    scale = torch.where(scale > 0, scale, 1)
    torch.testing.assert_close(law.loc / scale, other.loc / scale, rtol=tolerance, atol=tolerance)
    unit = scale[..., :, None] * scale[..., None, :]
    torch.testing.assert_close(law.covariance / unit, other.covariance / unit, rtol=0, atol=tolerance)


# published numbers, scipy and torch


def test_kl_divergences_equal_the_published_ones():
    p = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    q = Gaussian(torch.tensor([1.0, 0.0]).double(), torch.tensor([[2, 0.5], [0.5, 1]]).double())
    assert float(kl_divergence(p, q)) == pytest.approx(0.422665036825, abs=1e-11)
    assert float(kl_divergence(q, p)) == pytest.approx(0.720192106032, abs=1e-11)


@pytest.mark.parametrize("size", [1, 4, 200])
def test_density_and_entropy_equal_scipy(size):
    law, values = make_law(size, seed=size), normals(7, 10, size)
    # scipy takes what is small beside the largest unit for zero unless told otherwise
    covariance = scipy.stats.Covariance.from_cholesky(np.linalg.cholesky(law.covariance.numpy()))
    reference = scipy.stats.multivariate_normal(law.mean.numpy(), covariance)
    np.testing.assert_allclose(law.log_prob(values), reference.logpdf(values.numpy()), rtol=1e-9)
    assert float(law.entropy()) == pytest.approx(reference.entropy(), rel=1e-11)


@pytest.mark.parametrize("size", [1, 3, 200])
def test_a_condition_equals_the_textbook(size):
    law = make_law(size + 1, seed=size)
    order = torch.randperm(size + 1, generator=torch.Generator().manual_seed(0))
    known, values = order[: (size + 1) // 2], normals(3, (size + 1) // 2)
    rest = np.setdiff1d(np.arange(size + 1), known)
    loc, covariance = law.loc.numpy(), law.covariance.numpy()
    gain = scipy.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, rest)]).T
    given_known = law.condition(known, values)
    scale = np.sqrt(np.diag(covariance))[rest]
    mean = loc[rest] + gain @ (values.numpy() - loc[known])
    left = covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(known, rest)]
    np.testing.assert_allclose(given_known.mean.numpy() / scale, mean / scale, rtol=1e-9, atol=1e-9)
    unit = np.outer(scale, scale)
    np.testing.assert_allclose(given_known.covariance.numpy() / unit, left / unit, rtol=0, atol=1e-11)


def test_one_entry_is_a_normal_law():
    law = Gaussian(torch.tensor([1.0]), torch.tensor([[4.0]]))
    normal, other = Normal(1.0, 2.0), Normal(0.0, 3.0)
    assert float(law.log_prob(torch.tensor([2.5]))) == pytest.approx(
        float(normal.log_prob(torch.tensor(2.5)))
    )
    assert float(law.entropy()) == pytest.approx(float(normal.entropy()))
    kl = kl_divergence(law, Gaussian(torch.tensor([0.0]), torch.tensor([[9.0]])))
    assert float(kl) == pytest.approx(float(kl_divergence(normal, other)))


def test_it_is_a_distribution_of_torch():
    law = make_law(3, seed=0, batch=(2,))
    assert isinstance(law, Distribution)
    assert (law.batch_shape, law.event_shape) == ((2,), (3,))
    assert law.sample((5, 4)).shape == law.rsample((5, 4)).shape == (5, 4, 2, 3)
    assert not law.sample().requires_grad
    torch.testing.assert_close(law.stddev, law.covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    assert torch.equal(law.mean, law.loc) and torch.equal(law.mode, law.loc)
    assert_same(law.expand((4, 2)), make_law(3, seed=0, batch=(2,)) + torch.zeros(4, 2, 3))
    assert isinstance(law.distribution, MultivariateNormal)
    torch.testing.assert_close(law.distribution.mean, law.mean)
    torch.testing.assert_close(law.distribution.covariance_matrix, law.covariance)
    torch.testing.assert_close(law.covariance, make_covariance(3, 0, (2,)))
    assert str(Gaussian(torch.zeros(3), torch.eye(3))) == "Gaussian(loc: torch.Size([3]))"


# properties


@check
@given(sizes, sizes, sizes, seeds, batches)
def test_an_affine_map_of_an_affine_map_is_one(size, rows, more_rows, seed, batch):
    law = make_law(size, seed, batch)
    first, second = normals(seed + 3, rows, size), normals(seed + 4, more_rows, rows)
    offset, shift = normals(seed + 5, rows), normals(seed + 6, more_rows)
    twice = law.affine(first, offset).affine(second, shift)
    assert_same(twice, law.affine(second @ first, second @ offset + shift))
    covariance = second @ first @ law.covariance @ (second @ first).mT
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = scale[..., :, None] * scale[..., None, :]
    torch.testing.assert_close(twice.covariance / unit, covariance / unit, rtol=0, atol=1e-10)


@check
@given(sizes, seeds, batches, batches, st.floats(-3, 3), st.floats(-3, 3))
def test_a_sum_is_an_affine_map_of_both(size, seed, batch, other_batch, a, b):
    x, y = make_law(size, seed, batch), make_law(size, seed + 5, other_batch)
    batch_shape = torch.broadcast_shapes(batch, other_batch)
    both = torch.cat([x.loc.expand(*batch_shape, -1), y.loc.expand(*batch_shape, -1)], dim=-1)
    apart = torch.zeros(*batch_shape, 2 * size, 2 * size).double()
    apart[..., :size, :size], apart[..., size:, size:] = x.covariance, y.covariance
    unit = torch.eye(size).double()
    stacked = Gaussian(both, apart).affine(torch.cat([a * unit, b * unit], dim=-1))
    assert_same(a * x + b * y, stacked)
    assert_same(x * torch.tensor(a, dtype=torch.float64) - torch.tensor(-b, dtype=torch.float64) * y, stacked)
    constant = normals(seed, size)
    assert_same(constant - (a * x) + 1, (-a * x).affine(unit, constant + 1))


@check
@given(st.integers(3, 7), seeds, batches, st.data())
def test_conditioning_twice_is_conditioning_once_in_any_order(size, seed, batch, data):
    law, values = make_law(size, seed, batch), normals(seed + 3, 4, 1, 1, size)
    order = data.draw(st.permutations(range(size)))
    count = data.draw(st.integers(1, size - 1))
    cut = data.draw(st.integers(0, count))
    known = order[:count]
    once = law.condition(known, values[..., known])
    first, then = order[:cut], order[cut:count]
    rest = sorted(set(range(size)) - set(first))
    step = law.condition(first, values[..., first])
    twice = step.condition([rest.index(i) for i in then], values[..., then])
    assert_same(twice, once)
    rest = sorted(set(range(size)) - set(known))
    parts = law.marginal(known).log_prob(values[..., known]) + once.log_prob(values[..., rest])
    torch.testing.assert_close(parts, law.log_prob(values), rtol=1e-9, atol=1e-9)


@check
@given(sizes, seeds, batches, batches)
def test_a_kl_divergence_is_zero_for_equal_laws_only(size, seed, batch, other_batch):
    p, q = make_law(size, seed, batch), make_law(size, seed + 5, other_batch)
    assert (kl_divergence(p, q) > 0).all()
    assert kl_divergence(p, p).abs().max() < 1e-12
    # half a squared standard deviation, whichever entry moved
    moved = p + 1e-3 * torch.eye(size).double()[0] * p.condition(range(1, size), p.loc[..., 1:]).stddev
    torch.testing.assert_close(
        kl_divergence(p, moved), torch.full(batch, 5e-7, dtype=torch.float64), rtol=1e-5, atol=0
    )
    # n (a^2 - 1 - 2 log a) / 2 for one a times as wide
    wider = Gaussian(p.loc, 1.01**2 * p.covariance)
    expected = size * (1.01**2 - 1 - 2 * math.log(1.01)) / 2
    torch.testing.assert_close(
        kl_divergence(wider, p), torch.full(batch, expected, dtype=torch.float64), rtol=1e-8, atol=0
    )


@check
@given(sizes, seeds, batches, batches)
def test_a_kl_divergence_does_not_depend_on_units(size, seed, batch, other_batch):
    p, q = make_law(size, seed, batch), make_law(size, seed + 5, other_batch)
    matrix, offset = normals(seed + 6, size, size) + 3 * torch.eye(size), normals(seed + 7, size)
    mapped = kl_divergence(p.affine(matrix, offset), q.affine(matrix, offset))
    torch.testing.assert_close(mapped, kl_divergence(p, q), rtol=1e-7, atol=1e-9)


@check
@given(st.integers(2, 6), seeds, batches, st.data())
def test_the_tower_rule(size, seed, batch, data):
    law = make_law(size, seed, batch)
    count = data.draw(st.integers(1, size - 1))
    known = data.draw(st.permutations(range(size)))[:count]
    rest = sorted(set(range(size)) - set(known))
    # E[X | Y = y] is an affine function of y: read it off at zero and along each axis
    at_zero = law.condition(known, torch.zeros(count).double())
    axes = torch.eye(count).double().reshape(count, *[1] * len(batch), count)
    gain = (law.condition(known, axes).mean - at_zero.mean).movedim(0, -1)
    expected = law.marginal(known).affine(gain, at_zero.mean)
    whole = law.marginal(rest)
    scale = whole.stddev
    torch.testing.assert_close(expected.mean / scale, whole.mean / scale, rtol=1e-8, atol=1e-8)
    unit = scale[..., :, None] * scale[..., None, :]
    total = expected.covariance + at_zero.covariance
    torch.testing.assert_close(total / unit, whole.covariance / unit, rtol=0, atol=1e-8)


pairs = st.tuples(sizes, sizes, seeds, batches, batches)


def make_pair(size: int, rows: int, seed: int, batch: tuple[int, ...], other: tuple[int, ...]):
    """X and the A, b and S of Y given X."""
    pair = (
        normals(seed + 6, *other, rows, size),
        normals(seed + 7, rows),
        make_covariance(rows, seed + 8, other),
    )
    return make_law(size, seed, batch), pair


@check
@given(pairs)
def test_the_joint_law_has_its_parts(pair):
    x, y_given_x = make_pair(*pair)
    matrix, offset, covariance = y_given_x
    joint = x.joint(*y_given_x)
    size = x.event_shape[0]
    assert_same(joint.marginal(range(size)), x.expand(joint.batch_shape))
    y = x.predict(*y_given_x)
    assert_same(joint.marginal(range(size, joint.event_shape[0])), y)
    assert_same(y, x.affine(matrix, offset) + Gaussian(torch.zeros(len(offset)).double(), covariance))
    cross = (x.covariance @ matrix.mT).expand(*joint.batch_shape, -1, -1)
    unit = x.stddev[..., :, None] * y.stddev[..., None, :]
    torch.testing.assert_close(joint.covariance[..., :size, size:] / unit, cross / unit, rtol=0, atol=1e-10)
    # Y given X is what was said
    at = normals(0, size)
    given_x = joint.condition(range(size), at)
    expected = Gaussian((matrix @ at + offset).expand(*joint.batch_shape, -1), covariance)
    torch.testing.assert_close(kl_divergence(given_x, expected), torch.zeros(joint.batch_shape).double())


@check
@given(pairs)
def test_the_posterior_is_that_of_the_information_form(pair):
    x, (matrix, offset, covariance) = make_pair(*pair)
    values = normals(pair[2] + 9, 4, 1, 1, len(offset))
    precision = torch.linalg.inv(x.covariance) + matrix.mT @ torch.linalg.solve(covariance, matrix)
    weighted = matrix.mT @ torch.linalg.solve(covariance, (values - offset)[..., None])
    weighted = weighted + torch.linalg.solve(x.covariance, x.loc[..., None])
    left = torch.linalg.inv(precision)
    posterior = x.observe(matrix, offset, covariance, values)
    mean = torch.linalg.solve(precision, weighted).squeeze(-1)
    assert_same(posterior, Gaussian(mean, (left + left.mT) / 2), 1e-8)
    joint, size = x.joint(matrix, offset, covariance), x.event_shape[0]
    assert_same(joint.condition(range(size, size + len(offset)), values), posterior)


# numerics


def exact_condition(loc, covariance, known, values):
    """Mean and covariance of the rest, to fifty digits."""

    def part(rows, columns):
        return mpmath.matrix([[covariance[i][j] for j in columns] for i in rows])

    with mpmath.workdps(50):
        rest = [i for i in range(len(loc)) if i not in known]
        inverse = part(known, known) ** -1
        gap = mpmath.matrix([mpmath.mpf(values[k]) - loc[i] for k, i in enumerate(known)])
        mean = part(rest, known) * (inverse * gap)
        left = part(rest, rest) - part(rest, known) * inverse * part(known, rest)
        mean = [float(loc[i] + mean[k]) for k, i in enumerate(rest)]
        return np.array(mean), np.array(left.tolist(), dtype=float)


def digits(tensor: Tensor) -> list:
    return [digits(row) for row in tensor] if tensor.dim() else mpmath.mpf(float(tensor))


def test_a_condition_number_of_1e10_costs_no_more_than_its_digits():
    orthogonal = torch.linalg.qr(normals(0, 6, 6)).Q
    covariance = orthogonal * torch.logspace(-10, 0, 6, dtype=torch.float64) @ orthogonal.mT
    covariance = (covariance + covariance.mT) / 2
    loc, values = normals(1, 6), normals(2, 5)
    law = Gaussian(loc, covariance).condition([0, 1, 2, 3, 5], values)
    mean, left = exact_condition(digits(loc), digits(covariance), [0, 1, 2, 3, 5], values.tolist())
    scale = np.sqrt(np.diag(left))
    unit = np.outer(scale, scale)
    np.testing.assert_allclose(law.covariance.numpy() / unit, left / unit, rtol=0, atol=1e-6)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-5)


def test_units_cost_nothing():
    unit = torch.logspace(-10, 10, 5, dtype=torch.float64)
    covariance, loc = make_covariance(5, 0) * unit[:, None] * unit, normals(1, 5) * unit
    values = normals(2, 2) * unit[[1, 3]]
    law = Gaussian(loc, covariance).condition([1, 3], values)
    mean, left = exact_condition(digits(loc), digits(covariance), [1, 3], values.tolist())
    np.testing.assert_allclose(law.covariance, left, rtol=1e-12)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12)


def test_exact_observations_of_what_is_almost_unknown_keep_their_digits():
    # standard deviations of 1e5 before and 1e-3 after: the difference of covariances has none of their digits
    prior = Gaussian(normals(0, 3), 1e10 * make_covariance(3, 1))
    matrix, covariance, values = normals(2, 3, 3), 1e-6 * make_covariance(3, 3), normals(4, 3)
    posterior = prior.observe(matrix, 0.0, covariance, values)
    with mpmath.workdps(50):
        a, s, p = (mpmath.matrix(digits(x)) for x in (matrix, covariance, prior.covariance))
        left = (p**-1 + a.T * s**-1 * a) ** -1
        gap = mpmath.matrix(digits(values)) - a * mpmath.matrix(digits(prior.loc))
        mean = mpmath.matrix(digits(prior.loc)) + left * (a.T * (s**-1 * gap))
        left = np.array(left.tolist(), dtype=float)
        mean = np.array(mean.tolist(), dtype=float)[:, 0]
    scale = np.sqrt(np.diag(left))
    unit = np.outer(scale, scale)
    np.testing.assert_allclose(posterior.covariance.numpy() / unit, left / unit, rtol=0, atol=1e-10)
    np.testing.assert_allclose((posterior.mean.numpy() - mean) / scale, 0, atol=1e-10)


def test_single_precision_stays_and_is_accurate():
    law, pair = make_pair(4, 3, 0, (2,), ())
    values = normals(5, 3)

    def results(law, matrix, offset, covariance, values):
        posterior = law.observe(matrix, offset, covariance, values)
        part = (2 * posterior - law).marginal([0, 2]).condition([1], values[:1])
        kl = kl_divergence(posterior, law)
        return [
            posterior.loc,
            posterior.covariance,
            part.loc,
            part.variance,
            part.entropy(),
            kl,
            law.sample(),
        ]

    expected = results(law, *pair, values)
    single = Gaussian(law.loc.float(), law.covariance.float())
    for result, reference in zip(
        results(single, *(x.float() for x in pair), values.float())[:-1], expected[:-1], strict=True
    ):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), reference, rtol=1e-4, atol=1e-5)
    assert single.sample().dtype == torch.float32
    # the law's precision counts; a law of two precisions has the finer one
    assert single.affine(*pair[:2]).loc.dtype == torch.float32
    assert (single + law).loc.dtype == Gaussian(law.loc.float(), law.covariance).loc.dtype == torch.float64


def test_the_stationary_law_of_a_recursion_returns_from_it_however_often():
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()
    matrix = torch.tensor([[0.9, 0.2], [0.0, -0.7]]).double()
    gamma = scipy.linalg.solve_discrete_lyapunov(matrix.numpy(), covariance.numpy())
    stationary = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.from_numpy(gamma))
    law = stationary
    offset = stationary.loc - matrix @ stationary.loc
    for _ in range(200):
        law = law.predict(matrix, offset, covariance)
    assert_same(law, stationary)
    # what it holds does not grow with the recursion
    assert law._root.shape == (2, 2)


# gradients and batches


def spread(root: Tensor) -> Tensor:
    """A covariance, from any matrix."""
    return root @ root.mT + torch.eye(len(root))


def through_condition(loc, root, values, at):
    law = Gaussian(loc, spread(root)).condition([2, 0], values)
    return law.loc, law.covariance, law.log_prob(at), law.entropy()


def through_kl(loc, root, other_loc, other_root):
    return kl_divergence(Gaussian(loc, spread(root)), Gaussian(other_loc, spread(other_root)))


def through_the_pair(loc, root, matrix, values):
    posterior = Gaussian(loc, spread(root)).observe(matrix, values, spread(matrix), 2 * values)
    return posterior.loc, posterior.covariance, posterior.entropy()


def through_a_degenerate_law(loc, root, matrix, coefficient):
    law = Gaussian(loc, spread(root)).affine(matrix)
    both = coefficient[0] * law + law  # wide, and of lower rank than size
    part = both.condition([1], coefficient)
    return both.loc, both.covariance, part.variance, both.marginal([0]).log_prob(coefficient)


def through_samples(loc, root):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        law = Gaussian(loc, spread(root))
        return law.rsample((2,)), (law + law).rsample(), law.affine(torch.ones(4, 3)).rsample()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (through_condition, [(3,), (3, 3), (2,), (1,)]),
        (through_kl, [(3,), (3, 3), (3,), (3, 3)]),
        (through_the_pair, [(3,), (3, 3), (2, 3), (2,)]),
        (through_a_degenerate_law, [(2,), (2, 2), (3, 2), (1,)]),
        (through_samples, [(3,), (3, 3)]),
    ],
)
def test_gradients(function, shapes):
    inputs = [normals(i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_a_distribution_first_read_without_gradients_has_them():
    root = normals(0, 2, 2).requires_grad_()
    law = Gaussian(torch.zeros(2).double(), spread(root)).affine(torch.eye(2))
    with torch.no_grad():
        law.entropy()
    law.entropy().backward()
    assert root.grad.abs().min() > 0


def test_a_batch_equals_its_laws_one_by_one():
    batch, size, rows = (2, 3), 4, 2
    matrix, offset = normals(1, 3, rows, size), normals(2, *batch, rows)
    covariance, values = make_covariance(rows, 3, batch), normals(4, *batch, rows)
    law, other = make_law(size, 5, batch), make_law(size, 6, (3,))
    results = {
        "affine": lambda p, q, a, b, s, y: p.affine(a, b),
        "sum": lambda p, q, a, b, s, y: 2 * p - q + 3,
        "marginal": lambda p, q, a, b, s, y: p.marginal([3, 1]),
        "condition": lambda p, q, a, b, s, y: p.condition([-1, 0], y),
        "predict": lambda p, q, a, b, s, y: p.predict(a, b, s),
        "joint": lambda p, q, a, b, s, y: p.joint(a, b, s),
        "observe": lambda p, q, a, b, s, y: p.observe(a, b, s, y),
    }
    for result in results.values():
        together = result(law, other, matrix, offset, covariance, values)
        at = normals(7, *together.event_shape)
        log_prob, entropy = together.log_prob(at), together.entropy()
        kl = kl_divergence(together, together + at)
        assert log_prob.shape == entropy.shape == kl.shape == batch
        for i in range(2):
            for j in range(3):
                alone = result(
                    make_law_of(law, (i, j)),
                    make_law_of(other, (j,)),
                    matrix[j],
                    offset[i, j],
                    covariance[i, j],
                    values[i, j],
                )
                assert_same(make_law_of(together, (i, j)), alone)
                torch.testing.assert_close(log_prob[i, j], alone.log_prob(at))
                torch.testing.assert_close(entropy[i, j], alone.entropy())
                torch.testing.assert_close(kl[i, j], kl_divergence(alone, alone + at))


def make_law_of(law: Gaussian, index: tuple[int, ...]) -> Gaussian:
    return Gaussian(law.loc[index], law.covariance[index])


def test_batch_dimensions_broadcast():
    shared = Gaussian(normals(0, 5, 1, 3), make_covariance(3, 1))  # one covariance for all
    law = shared.condition([1], normals(2, 4, 1))
    assert law.batch_shape == (5, 4)
    assert (
        law.mean.shape == (5, 4, 2)
        and law.covariance.shape == (5, 4, 2, 2)
        and law.variance.shape == (5, 4, 2)
    )
    assert law.sample((7,)).shape == (7, 5, 4, 2)
    assert law.log_prob(torch.zeros(2)).shape == law.entropy().shape == (5, 4)
    law = Gaussian(torch.zeros(3), torch.eye(3).expand(6, 3, 3))
    assert law.loc.shape == law.stddev.shape == (6, 3) and (law + torch.ones(5, 1, 3)).mean.shape == (5, 6, 3)
    assert law.joint(torch.ones(2, 3), 1.0, torch.eye(2).expand(5, 1, 2, 2)).batch_shape == (5, 6)
    empty = Gaussian(torch.zeros(0, 3), torch.eye(3).expand(0, 3, 3))
    assert (empty + empty).condition([0], torch.zeros(0, 1)).covariance.shape == (0, 2, 2)


def test_knowing_nothing_changes_nothing():
    law = make_law(3, seed=0)
    assert_same(law.condition([], torch.zeros(0)), law)


# draws


def z_scores(draws: Tensor, expected: Tensor) -> Tensor:
    return (draws.mean(dim=0) - expected) / draws.std(dim=0) * math.sqrt(len(draws))


@pytest.mark.parametrize("kind", ["full", "thin", "wide", "posterior"])
def test_draws_follow_the_law(kind):
    law = make_law(3, seed=0, batch=(2,))
    if kind == "thin":
        law = law.affine(normals(1, 4, 3), normals(2, 4))
    elif kind == "wide":  # six columns of rank 3 in four rows
        law = (law + 2 * make_law(3, seed=2)).affine(normals(1, 4, 3)) + law.affine(normals(1, 4, 3))
    elif kind == "posterior":
        law = law.observe(normals(1, 2, 3), 1.0, make_covariance(2, 4), normals(2, 2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law.sample((50_000,))
    assert z_scores(draws, law.mean).abs().max() < 5
    centred = draws - law.mean
    assert z_scores(centred[..., :, None] * centred[..., None, :], law.covariance).abs().max() < 5


# laws without a density


def test_a_degenerate_law_does_all_but_give_a_density():
    law = make_law(2, seed=0)
    matrix, offset = normals(1, 4, 2), normals(2, 4)
    flat = law.affine(matrix, offset)
    expected = matrix @ law.covariance @ matrix.mT
    torch.testing.assert_close(flat.covariance, expected)
    torch.testing.assert_close(flat.mean, matrix @ law.loc + offset)
    # draws lie on the plane
    draws = flat.sample((10,)) - offset
    left = draws - draws @ torch.linalg.pinv(matrix).mT @ matrix.mT
    assert left.abs().max() < 1e-10
    for ask in (flat.entropy, lambda: flat.log_prob(offset), lambda: flat.distribution):
        with pytest.raises(ValueError, match="has rank 2 and size 4"):
            ask()
    for p, q in ((flat, flat), (flat, make_law(4, 0)), (make_law(4, 0), flat)):
        with pytest.raises(ValueError, match="has rank 2 and size 4"):
            kl_divergence(p, q)
    # its parts, its images and its sums with others have densities again
    assert_same(flat.marginal([3, 0]), law.affine(matrix[[3, 0]], offset[[3, 0]]))
    assert flat.marginal([3, 0]).entropy().isfinite()
    assert flat.affine(normals(3, 2, 4)).entropy().isfinite()
    noise = Gaussian(torch.zeros(4).double(), 1e-12 * torch.eye(4).double())
    # |s I_4 + M C M'| = s^2 |s I_2 + M'M C|
    plane = 1e-12 * torch.eye(2) + matrix.mT @ matrix @ law.covariance
    entropy = 2 * math.log(2 * math.pi * math.e) + math.log(1e-12) + 0.5 * float(torch.logdet(plane))
    assert float((flat + noise).entropy()) == pytest.approx(entropy, abs=1e-8)
    # two entries tell the law of the plane, hence all others
    point = flat.condition([0, 1], flat.loc[:2] + 1)
    coordinates = torch.linalg.solve(matrix[:2], torch.ones(2).double())
    torch.testing.assert_close(point.mean, flat.loc[2:] + matrix[2:] @ coordinates)
    assert point.stddev.max() < 1e-12
    with pytest.raises(ValueError, match=r"given entries must have full rank; it has rank 2 and size 3"):
        flat.condition([0, 1, 2], torch.zeros(3).double())


def test_rank_is_told_whatever_the_units():
    law = make_law(2, seed=0)
    unit = torch.logspace(-8, 8, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="has rank 2 and size 3"):
        law.affine(unit[:, None] * normals(1, 3, 2)).entropy()
    with pytest.raises(ValueError, match="has rank 0 and size 2"):
        (0 * law).entropy()
    square = normals(2, 3, 2) @ normals(3, 2, 3)
    with pytest.raises(ValueError, match="has rank 2 and size 3"):
        make_law(3, seed=1).affine(square).entropy()
    # wide and degenerate: three columns in two rows that are copies
    with pytest.raises(ValueError, match="has rank 1 and size 2"):
        make_law(3, seed=1, batch=(2,)).affine(torch.ones(2, 3)).entropy()
    # of a batch, the lowest
    matrices = torch.stack([normals(1, 3, 3), torch.ones(3, 3), normals(2, 3, 3)])
    with pytest.raises(ValueError, match="has rank 1 and size 3"):
        make_law(3, seed=1).affine(matrices).entropy()
    assert make_law(3, seed=0).affine(torch.diag(unit)).entropy().isfinite()


# what is refused


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_covariance_is_refused():
    zero, unit = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match=r"positive definite; its smallest eigenvalue is -1\."):
        Gaussian(zero, torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"positive definite; its smallest eigenvalue is 0\."):
        Gaussian(zero, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"positive definite; its smallest eigenvalue is -4\."):
        Gaussian(torch.zeros(3, 2), torch.stack([unit, unit * torch.tensor([1.0, -4.0]), unit]))
    for seed in range(20):  # rounding makes the smallest eigenvalue of these anything about zero
        root = normals(seed, 5, 3)
        with pytest.raises(ValueError, match="must be positive definite"):
            Gaussian(torch.zeros(5), root @ root.mT)
    with pytest.raises(ValueError, match=r"symmetric; it differs from its transpose by 0\.5"):
        Gaussian(zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"covariance must have shape \[..., 2, 2\]; it has \[3, 3\]"):
        Gaussian(zero, torch.eye(3))
    with pytest.raises(ValueError, match=r"batch dimensions that broadcast with \[3\]; it has \[2, 2, 2\]"):
        Gaussian(torch.zeros(3, 2), unit.expand(2, 2, 2))
    with pytest.raises(ValueError, match=r"size at least 1; it has \[\]"):
        Gaussian(torch.tensor(0.0), unit)
    with pytest.raises(ValueError, match="loc must be finite; 1 of its entries are not"):
        Gaussian(torch.tensor([0.0, torch.nan]), unit)
    with pytest.raises(ValueError, match="covariance must be finite; 4 of its entries are not"):
        Gaussian(zero, torch.nan * unit)
    with pytest.raises(ValueError, match="must be floating-point numbers"):
        Gaussian(zero.long(), unit.long())


@pytest.mark.usefixtures("as_a_user")
def test_operations_refuse_what_does_not_fit():
    law, nan = make_law(3, seed=0), math.nan
    with pytest.raises(ValueError, match=r"matrix must have shape \[..., 2, 3\]; it has \[2, 4\]"):
        law.affine(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"offset must have shape \[..., 2\]; it has \[3\]"):
        law.affine(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="matrix must be finite"):
        law.affine(torch.full((1, 3), nan))
    with pytest.raises(ValueError, match="the same size; the sizes are 3 and 2"):
        law + make_law(2, seed=0)
    with pytest.raises(ValueError, match=r"second law .* broadcast with \[2\]; it has \[3, 3\]"):
        make_law(3, 0, (2,)) + make_law(3, 0, (3,))
    with pytest.raises(ValueError, match=r"a constant must have shape \[..., 3\]; it has \[2\]"):
        law + torch.ones(2)
    with pytest.raises(ValueError, match=r"a constant must have shape \[..., 1\]; it has \[5\]"):
        make_law(1, seed=0) + torch.ones(5)
    with pytest.raises(ValueError, match=r"a single number; its shape is \[3\]"):
        torch.ones(3) * law
    with pytest.raises(ValueError, match="coefficient must be finite"):
        nan * law
    with pytest.raises(TypeError, match="unsupported operand"):
        law * law
    for indices, message in (
        ([3], r"must lie in -3\.\.2, for size 3; it is 3"),
        ([-4], r"must lie in -3\.\.2, for size 3; it is -4"),
        ([0, -3], r"must be distinct; they are \[0, 0\]"),
        ([True, False, True], r"must be Sequence\[int\]"),
        (0, r"must be Sequence\[int\]"),
    ):
        with pytest.raises(ValueError, match=message):
            law.marginal(indices)
        with pytest.raises(ValueError, match=message):
            law.condition(indices, torch.zeros(1))
    with pytest.raises(ValueError, match="at least one entry"):
        law.marginal([])
    with pytest.raises(ValueError, match="all 3 are given"):
        law.condition([0, 1, 2], torch.zeros(3))
    with pytest.raises(ValueError, match=r"values must have shape \[..., 2\]; it has \[1\]"):
        law.condition([0, 1], torch.zeros(1))
    with pytest.raises(ValueError, match="values must be finite"):
        law.condition([0], torch.tensor([nan]))
    with pytest.raises(ValueError, match=r"covariance must have shape \[..., 1, 1\]; it has \[2, 2\]"):
        law.observe(torch.ones(1, 3), 0.0, torch.eye(2), torch.ones(1))
    with pytest.raises(ValueError, match=r"smallest eigenvalue is -1\."):
        law.predict(torch.ones(1, 3), 0.0, -torch.eye(1))
    with pytest.raises(ValueError, match="within the support"):
        law.log_prob(torch.tensor([0.0, nan, 0.0]))
    with pytest.raises(ValueError, match="different event shapes"):
        kl_divergence(law, make_law(2, seed=0))


# what is written


def test_the_page_is_true():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_known_entries_determine_has_no_density(dtype):
    """Eight entries made of five: given five of them the other three are certain."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(8, 5, generator=generator, dtype=dtype)
        law = Gaussian(torch.zeros(5, dtype=dtype), torch.eye(5, dtype=dtype)).affine(matrix)
        values = law.sample()
        rest = law.condition(range(5), values[:5])
        assert (rest.variance == 0).all()
        with pytest.raises(ValueError, match="rank 0 and size 3"):
            rest.entropy()
