"""The heads against quadrature, a loop over the entries, and the laws of which the answer is known."""

import itertools
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, constraints
from torch.func import functional_call, jacrev

from tsgen.data.series import Sizes, Units
from tsgen.heads import ConditionalHead, GaussianHead, Head, MixtureHead, MixtureNADEHead, StudentTHead
from tsgen.metrics import has_closed_crps, law_crps
from tsgen.storage.components import describe, restore

PAGE = Path(__file__).parents[2] / "docs" / "heads.md"
SIZES, HIDDEN = Sizes(nodes=3, channels=2, covariates=2), 4
ENTRIES = 6
SHUFFLED = [4, 1, 5, 0, 3, 2]
NADES = {
    "channels given": partial(MixtureNADEHead, width=5),
    "channels any": partial(MixtureNADEHead, width=5, order="any"),
    "channels reversed": partial(MixtureNADEHead, width=5, order=[1, 0], activation="tanh"),
    "slice given": partial(MixtureNADEHead, width=5, over="slice"),
    "slice any": partial(MixtureNADEHead, width=5, over="slice", order="any"),
    "slice shuffled": partial(MixtureNADEHead, width=5, over="slice", order=SHUFFLED, components=2),
    "slice linear": partial(MixtureNADEHead, width=5, over="slice", order=SHUFFLED, activation="none"),
    "channels own scales": partial(MixtureNADEHead, width=5, scale="entry"),
    "slice own scales": partial(MixtureNADEHead, width=5, over="slice", scale="entry", components=2),
    "slice linear any": partial(MixtureNADEHead, width=5, over="slice", order="any", activation="none"),
}
HEADS = NADES | {
    "gaussian": GaussianHead,
    "gaussian node": partial(GaussianHead, scale="node"),
    "gaussian fixed": partial(GaussianHead, scale=0.6),
    "mixture": MixtureHead,
    "student t": StudentTHead,
    "student ts": partial(StudentTHead, components=2),
    "conditional gaussian": ConditionalHead,
    "conditional nade": partial(ConditionalHead, head=NADES["slice any"]),
}


def make(name: str, sizes: Sizes = SIZES, hidden: int = HIDDEN, change=lambda factory: factory) -> Head:
    """A head in float64 whose parameters are all different from where training starts."""
    torch.manual_seed(0)
    head = change(HEADS[name])(hidden, sizes).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return head


def make_inputs(rows: int = 2, steps: int = 3, sizes: Sizes = SIZES, hidden: int = HIDDEN, seed: int = 1):
    """States, values and covariates, the values in units that differ between entries."""
    random = torch.Generator().manual_seed(seed)

    def normal(last: int):
        return torch.randn(rows, steps, sizes.nodes, last, generator=random, dtype=torch.float64)

    h, covariates = normal(hidden), normal(sizes.covariates)
    return h, units_of(sizes).loc + units_of(sizes).scale * normal(sizes.channels), covariates


def units_of(sizes: Sizes = SIZES) -> Units:
    entries = torch.arange(sizes.nodes * sizes.channels, dtype=torch.float64)
    shape = (sizes.nodes, sizes.channels)
    return Units((40 + 3 * entries).reshape(shape), (2 + entries).reshape(shape))


def some_known(values, rate: float = 0.6, seed: int = 2):
    return torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < rate


def uniforms_for(head: Head, values, seed: int = 3):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(*values.shape, head.uniforms_per_entry, generator=random, dtype=torch.float64)


def joint_of(name: str) -> list[list[int]]:
    """The entries that are joint, each group in the order in which they come."""
    order = HEADS[name].keywords.get("order", "given")
    if "channels" in name:
        sequence = [0, 1] if isinstance(order, str) else order
        return [[2 * v + c for c in sequence] for v in range(SIZES.nodes)]
    return [list(range(ENTRIES)) if isinstance(order, str) else order]


# every head


@pytest.mark.parametrize("name", HEADS)
def test_a_density_integrates_to_one_and_draws_follow_it(name):
    """Each entry in turn is outside the context, all others within."""
    head, size = make(name), 4000
    h, values, covariates = (x.expand(ENTRIES, -1, -1, -1) for x in make_inputs(1, 1))
    context = ~torch.eye(ENTRIES, dtype=torch.bool).reshape(ENTRIES, 1, 3, 2)
    law = head(h, values, context, units_of(), covariates)
    assert law.batch_shape == values.shape and law.event_shape == ()
    # fine in the middle, far in the tails: a Cauchy law has 1e-6 beyond 3e5 scales
    at = torch.linspace(-20, 20, 40_001, dtype=torch.float64).sinh()[:, None, None, None, None]
    grid = (units_of().loc + units_of().scale * at).expand(-1, *values.shape)
    density = law.log_prob(grid).exp()
    total = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)

    h, values, covariates, context = (
        x.expand(-1, size, -1, -1).contiguous() for x in (h, values, covariates, context)
    )
    draws = head.draw(h, values, context, units_of(), uniforms_for(head, values), covariates)
    assert torch.equal(draws[context], values[context])
    assert head.support.check(draws).all()
    # a variable's distribution function of itself is uniform: mean 1/2, second moment 1/3
    drawn, own = draws[~context].reshape(ENTRIES, size).detach(), ~context[:, 0]
    cdf = torch.cumulative_trapezoid(density[:, own[:, None]], grid[:, own[:, None]], dim=0).detach().T
    uniform = cdf.gather(1, torch.searchsorted(grid[1:, own[:, None]].T.contiguous(), drawn))
    for power in (1, 2):
        mean, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        z = ((uniform**power).mean(dim=1) - mean) / math.sqrt(variance / size)
        assert z.abs().max() < 5


@pytest.mark.parametrize("name", HEADS)
def test_what_a_head_states_of_its_laws_is_true(name):
    head, (h, values, covariates) = make(name), make_inputs()
    law, noise = head(h, values, some_known(values), units_of(), covariates), uniforms_for(head, values)
    draws = head.quantile(law, noise).detach().requires_grad_()
    assert head.support.check(draws).all() and torch.isfinite(law.log_prob(draws)).all()
    assert head.has_mean == torch.isfinite(answer(lambda: law.mean)).all()
    probability = answer(lambda: law.cdf(draws))
    assert head.has_cdf == torch.isfinite(probability).all()
    if head.has_cdf:
        assert ((probability > 0) & (probability < 1)).all()
        (slope,) = torch.autograd.grad(probability.sum(), draws, retain_graph=True)
        torch.testing.assert_close(slope, law.log_prob(draws).exp())
    quantiles = answer(lambda: law.icdf(probability))
    assert head.has_icdf == torch.isfinite(quantiles).all()
    if head.has_icdf:
        torch.testing.assert_close(quantiles, draws)
    assert head.closed_crps == has_closed_crps(law)
    if head.closed_crps:
        assert torch.isfinite(law_crps(law, draws)).all()


def answer(function) -> torch.Tensor:
    """What a law answers; NaN where it has no answer."""
    try:
        return function()
    except NotImplementedError:
        return torch.tensor(torch.nan)


def test_a_conditional_head_states_what_its_inner_head_states():
    """Of an inner head all of whose statements differ from the defaults."""

    class Other(GaussianHead):
        support, has_mean, has_cdf, has_icdf, closed_crps = constraints.positive, False, True, True, True
        joint_entries, context_first, uniforms_per_entry = 2, True, 7

        def check_data(self, data, stage):
            raise ValueError(f"{data} at {stage} is refused")

    outer = ConditionalHead(HIDDEN, SIZES, partial(Other, scale="node"))
    inner = Other(HIDDEN + 2, SIZES, scale="node")
    statements = [*Head.__annotations__, "num_parameters_per_entry"]
    assert {"support", "closed_crps", "joint_entries"} < set(statements)
    for name in statements:
        assert getattr(outer, name) == getattr(inner, name) != getattr(Head, name, None), name
    with pytest.raises(ValueError, match="rain at fit is refused"):
        outer.check_data("rain", "fit")
    make("gaussian").check_data("anything", "fit")


@pytest.mark.parametrize("name", HEADS)
def test_what_is_unknown_changes_nothing(name):
    """NaN or any number there: the same laws, draws and gradients."""
    head, results = make(name), []
    h, values, covariates = make_inputs()
    context = some_known(values)
    for poison in (torch.nan, 1e9):
        head.zero_grad()
        state, poisoned = h.clone().requires_grad_(), torch.where(context, values, poison)
        units = Units(*(x.requires_grad_() for x in units_of()[:2]))
        law = head(state, poisoned, context, units, covariates)
        draws = head.draw(state, poisoned, context, units, uniforms_for(head, values), covariates)
        (law.log_prob(values).sum() + draws.square().sum()).backward()
        grads = [x.grad.clone() for x in (state, *units[:2], *head.parameters())]
        results.append([law.mean.detach(), law.stddev.detach(), draws.detach(), *grads])
    for a, b in zip(*results, strict=True):
        assert torch.isfinite(a).all() and torch.equal(a, b)


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter(name):
    head, (h, values, covariates) = make(name), make_inputs()
    head(h, values, some_known(values), units_of(), covariates).log_prob(values).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def single(factory):
    """The same head with mixtures of one component: a draw is then a smooth function of its uniforms."""
    made = factory.func if isinstance(factory, partial) else factory
    if made in (MixtureHead, MixtureNADEHead, StudentTHead):
        return partial(factory, components=1)
    if isinstance(factory, partial) and made is ConditionalHead:
        return partial(factory, head=single(factory.keywords["head"]))
    return factory


@pytest.mark.parametrize("name", HEADS)
def test_a_draw_is_differentiable(name):
    head, (h, values, covariates) = make(name, change=single), make_inputs()
    context, noise = some_known(values, 0.4), uniforms_for(head, values)
    parameters = dict(head.named_parameters())
    direction = {key: torch.randn_like(p) for key, p in parameters.items()}
    weight = torch.randn_like(values)

    class Draw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self):
            draws = self.head.draw(h, values, context, units_of(), noise, covariates)
            return (weight * draws)[~context].sum()

    def moved(step):
        new = {f"head.{key}": (p + step * direction[key]).detach() for key, p in parameters.items()}
        return functional_call(Draw(), new, ())

    grads = torch.autograd.grad(Draw()(), list(parameters.values()), allow_unused=True)
    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    slope = sum((g * direction[key]).sum() for key, g in zip(parameters, grads, strict=True) if g is not None)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["mixture", "channels given"])
def test_gradients_of_draws_are_those_of_expectations(name):
    """The mean gradient of a second moment over draws, of mixtures whose components come and go."""
    torch.manual_seed(0)
    sizes, standard = Sizes(1, 2), Units(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    head = HEADS[name](HIDDEN, sizes).double()
    h, size, portions = torch.randn(1, 1, 1, HIDDEN).double(), 2000, 30

    def slope(loss):
        grads = torch.autograd.grad(loss, list(head.parameters()), allow_unused=True)
        return sum((g * w).sum() for g, w in zip(grads, way, strict=True) if g is not None)

    way = [torch.randn_like(p) for p in head.parameters()]
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    values = torch.stack([grid, torch.zeros_like(grid)], dim=-1)[:, None, None]
    context = torch.tensor([True, False]).expand(4001, 1, 1, 2)
    law = head(h.expand(4001, -1, -1, -1), values, context, standard)
    first, second = law.log_prob(values).exp()[..., 0, 0, 0], (law.mean**2 + law.variance)[..., 0, 0, 1]
    exact = slope(torch.trapezoid(first * second, grid))
    rows = h.expand(size, -1, -1, -1)
    nothing = torch.zeros(size, 1, 1, 2, dtype=torch.float64)
    slopes = []
    for _ in range(portions):
        uniforms = torch.rand(size, 1, 1, 2, 2, dtype=torch.float64)
        draws = head.draw(rows, nothing, nothing.bool(), standard, uniforms)
        slopes.append(slope(draws[..., 1].square().mean()))
    slopes = torch.stack(slopes)
    assert abs(slopes.mean() - exact) < 5 * slopes.std() / portions**0.5
    assert slopes.std() / portions**0.5 < 0.1 * abs(exact)


@pytest.mark.parametrize("name", HEADS)
def test_units_are_only_units(name):
    """The same slices in other units, or with units for each step: the same laws."""
    head, (h, values, covariates) = make(name), make_inputs()
    context, noise, units = some_known(values), uniforms_for(head, values), units_of()
    law = head(h, values, context, units, covariates)
    draws = head.draw(h, values, context, units, noise, covariates)
    other = Units(7 - 2 * units.loc, 2 * units.scale)
    turned = other.loc + other.scale * units.standardise(values)
    law_2 = head(h, turned, context, other, covariates)
    torch.testing.assert_close(law_2.log_prob(turned), law.log_prob(values) - math.log(2))
    drawn = head.draw(h, turned, context, other, noise, covariates)
    torch.testing.assert_close(drawn, other.loc + other.scale * units.standardise(draws))
    each = Units(*(x.expand(values.shape) for x in units[:2]))
    # arrays of another layout may go through another kernel
    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(head(h, values, context, each, covariates).mean, law.mean, **same)
    torch.testing.assert_close(head.draw(h, values, context, each, noise, covariates), draws, **same)


@pytest.mark.parametrize(
    ("name", "an_entry", "in_all"),
    [
        ("gaussian", 10, 20),
        ("gaussian node", 6, 2 * 5 + 6),
        ("gaussian fixed", 5, 10),
        ("mixture", 45, 90),
        ("student ts", 40, 80),
        ("conditional gaussian", 14, 28),
        ("channels given", 9 * 15 + 14, 2 * 149 + 25),
        ("channels any", 149, 2 * 149 + 25),
        ("slice given", 149, 6 * 149 + 25),
        ("slice shuffled", 6 * 15 + 14, 6 * 104 + 25),
        ("slice linear", 9 * 10 + 14, 6 * 104),
        ("channels own scales", 6 * 15 + 14 + 3, 2 * 107 + 25),
        ("conditional nade", 9 * 17 + 16, 6 * 169 + 35),
    ],
)
def test_heads_count_their_parameters(name, an_entry, in_all):
    head = make(name)
    assert head.num_parameters_per_entry == an_entry
    assert sum(p.numel() for p in head.parameters()) == in_all


def test_a_head_is_rebuilt_from_its_description():
    for factory in HEADS.values():
        head = restore(describe(factory), (Head,))(HIDDEN, SIZES)
        head.load_state_dict(factory(HIDDEN, SIZES).state_dict())


# Gaussian and mixture


def test_a_gaussian_has_its_scale_from_the_state_the_node_or_a_number():
    h, values, _ = make_inputs()
    nothing = torch.zeros_like(values).bool()
    scales = {}
    for name in ("gaussian", "gaussian node", "gaussian fixed"):
        law = make(name)(h, values, nothing, units_of())
        scales[name] = (law.stddev / units_of().scale).flatten(0, 1)
        assert (law.mean.flatten(0, 1).std(dim=0) > 0).all()
    assert (scales["gaussian"].std(dim=0) > 0.01).all()
    torch.testing.assert_close(scales["gaussian fixed"], torch.full_like(scales["gaussian fixed"], 0.6))
    linear = make("gaussian").linear  # mean and log-scale of the first channel, then of the second
    exponent = h.flatten(0, 1) @ linear.weight[1::2].T + linear.bias[1::2]
    torch.testing.assert_close(scales["gaussian"], exponent.exp() + 1e-3)
    own = make("gaussian node").log_scale.exp() + 1e-3
    torch.testing.assert_close(scales["gaussian node"], own.expand_as(scales["gaussian node"]))
    assert own.unique().numel() == ENTRIES


def fitted(head: Head, h, values, units: Units, weight, context=None, scored=True) -> float:
    """The least cross-entropy in nats, the slices weighted; all entries are known if nothing is said."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=200, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )
    context = torch.ones_like(values, dtype=torch.bool) if context is None else context

    def loss():
        log_prob = head(h, values, context, units).log_prob(values) * scored
        return -(weight * log_prob.sum(dim=(1, 2, 3))).sum()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return loss().item()


@pytest.mark.parametrize(
    ("factory", "floor", "slack"),
    [(partial(MixtureHead, components=2), 1.636902879472, 0.01), (GaussianHead, 1.8593739265, 1e-6)],
)
def test_a_mixture_reaches_the_entropy_that_a_gaussian_cannot(factory, floor, slack):
    """0.3 N(-2, 0.5^2) + 0.7 N(1, 0.8^2), on a grid with the density's weights."""
    x = torch.linspace(-8, 9, 801, dtype=torch.float64)
    weight = 0.3 * torch.exp(torch.distributions.Normal(-2.0, 0.5).log_prob(x))
    weight = weight + 0.7 * torch.exp(torch.distributions.Normal(1.0, 0.8).log_prob(x))
    weight = weight / weight.sum()
    mean = (weight * x).sum()
    scale = (weight * (x - mean).square()).sum().sqrt()
    torch.manual_seed(0)
    head = factory(1, Sizes(1, 1)).double()
    h = torch.ones(len(x), 1, 1, 1, dtype=torch.float64)
    units = Units(mean.reshape(1, 1), scale.reshape(1, 1))
    least = fitted(head, h, x[:, None, None, None], units, weight)
    assert floor - 1e-6 < least < floor + slack


# NADE


def loop(head: MixtureNADEHead, name: str, h, values, context, units: Units):
    """Logits, means and scales of one slice in data units, entry by entry, straight from the formula."""
    p, (_, channels) = dict(head.named_parameters()), values.shape
    x = (values - units.loc) / units.scale
    any_order = HEADS[name].keywords.get("order") == "any"
    out = torch.zeros(*values.shape, 3, head.components, dtype=torch.float64)
    for group in joint_of(name):
        for place, i in enumerate(group):
            v, c = divmod(i, channels)
            given = group[:place]
            if any_order and not context[v, c]:
                given = [j for j in group if j != i]
            e = torch.zeros(head.width, dtype=torch.float64)
            for j in given:
                u, d = divmod(j, channels)
                row = d if "channels" in name else j
                if context[u, d]:
                    surprise = x[u, d] - p["expected"][row] @ h[u]
                    e = e + p["telling.weight"][row, 0] * surprise + p["telling.bias"][row]
            row = c if "channels" in name else i
            weight = p["numbers.weight"][row]
            numbers = h[v] @ weight[:HIDDEN] + e @ weight[HIDDEN : HIDDEN + head.width]
            if "linear" not in name:
                a = p["start.weight"] @ h[v] + p["start.bias"] + e
                act = torch.tanh(a) if "reversed" in name else a * torch.sigmoid(a)
                numbers = numbers + act @ weight[HIDDEN + head.width :]
            numbers = numbers + p["numbers.bias"][row]
            if "own scales" in name:
                numbers = torch.cat([numbers, p["log_scale"][row]])
            out[v, c] = numbers.reshape(3, -1)
    logits, mean, log_scale = out.unbind(-2)
    return (
        logits.log_softmax(dim=-1),
        mean,
        1e-3 + log_scale.exp(),
    )


@pytest.mark.parametrize("name", NADES)
def test_all_entries_at_once_equal_a_loop_over_them(name):
    head, (h, values, _) = make(name), make_inputs()
    for rate in (0.0, 0.6, 1.0):
        context = some_known(values, rate)
        law = head(h, values.where(context, torch.nan), context, units_of())
        for b, t in itertools.product(range(2), range(3)):
            logits, loc, scale = loop(head, name, h[b, t], values[b, t], context[b, t], units_of())
            mixture = law.law
            component = mixture.component_distribution
            torch.testing.assert_close(mixture.mixture_distribution.logits[b, t], logits)
            torch.testing.assert_close(component.loc[b, t], loc)
            torch.testing.assert_close(component.scale[b, t], scale)


@pytest.mark.parametrize("name", NADES)
def test_an_entry_depends_on_what_it_is_given_and_on_nothing_else(name):
    """The Jacobian in the values, and what changes when an entry becomes unknown."""
    head, (h, values, _) = make(name), make_inputs(1, 1)
    for seed in range(4):
        context = some_known(values, seed=seed)

        def numbers(x, context=context):
            law = head(h, x, context, units_of()).law
            parts = (law.mixture_distribution.logits, law.component_distribution.loc)
            return torch.cat([*parts, law.component_distribution.scale], dim=-1).reshape(ENTRIES, -1)

        jacobian = jacrev(numbers)(values).abs().sum(dim=1).reshape(ENTRIES, ENTRIES)
        flat = context.flatten()
        may = torch.zeros(ENTRIES, ENTRIES, dtype=torch.bool)
        for group in joint_of(name):
            for i, j in itertools.permutations(group, 2):
                all_known = HEADS[name].keywords.get("order") == "any" and not flat[i]
                may[i, j] = flat[j] and (all_known or group.index(j) < group.index(i))
        assert torch.equal(jacobian > 0, may)
        for j in flat.nonzero().flatten().tolist():
            less = context.clone()
            less.view(-1)[j] = False
            changed = (numbers(values, less) != numbers(values)).any(dim=1)
            other = torch.arange(ENTRIES) != j
            assert torch.equal(changed[other], may[other, j])


@pytest.mark.parametrize("name", NADES)
def test_a_draw_is_each_entry_from_its_law_given_what_was_known_or_drawn(name):
    head, (h, values, _) = make(name), make_inputs()
    context, noise = some_known(values), uniforms_for(head, values)
    values = values.where(context, torch.nan)
    draws = head.draw(h, values, context, units_of(), noise)
    by_steps, seen = values, context.clone()
    for place in range(len(joint_of(name)[0])):
        # one entry of each group; what the order has not reached and is not known stays unknown
        entry = torch.tensor([group[place] for group in joint_of(name)])
        law = head(h, by_steps, seen, units_of())
        step = head.quantile(law, noise)
        now = torch.zeros(ENTRIES, dtype=torch.bool).index_fill(0, entry, True).reshape(3, 2) & ~seen
        by_steps, seen = torch.where(now, step, by_steps), seen | now
    torch.testing.assert_close(draws, by_steps)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("channels given", Sizes(1, 2)),
        ("channels reversed", Sizes(1, 2)),
        ("channels any", Sizes(1, 2)),
        ("slice given", Sizes(3, 1)),
        ("slice any", Sizes(3, 1)),
    ],
)
def test_the_joint_density_integrates_to_one_and_draws_have_its_moments(name, sizes):
    head, count = make(name, sizes), sizes.nodes * sizes.channels
    units = units_of(sizes)
    with torch.no_grad():  # wide enough for the grid, narrow enough to end within it
        head.numbers.bias.view(count, 3, -1)[:, 2] += 0.5
        head.numbers.weight *= 0.4
    axis = torch.linspace(-10, 10, 601 if count == 2 else 71, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * count).reshape(-1, 1, sizes.nodes, sizes.channels)
    h, _, _ = make_inputs(1, 1, sizes)
    everything = torch.ones_like(grid[:1]).bool()
    values = units.loc + units.scale * grid
    with torch.no_grad():
        law = head(h.expand(len(grid), -1, -1, -1), values, everything.expand(grid.shape), units)
        density = (law.log_prob(values) + units.scale.log()).sum(dim=(1, 2, 3)).exp()
        weight = density * (axis[1] - axis[0]) ** count
        assert abs(weight.sum() - 1) < 1e-5
        size = 20_000
        empty = torch.full((1, size, *grid.shape[2:]), torch.nan, dtype=torch.float64)
        noise = uniforms_for(head, empty)
        draws = head.draw(h.expand(-1, size, -1, -1), empty, empty == empty, units, noise)
    z = units.standardise(draws).reshape(size, count)
    flat = grid.reshape(-1, count)
    for powers in itertools.product(range(3), repeat=count):

        def moment(x, powers=powers):
            return (x ** torch.tensor(powers)).prod(dim=1)

        if 0 < sum(powers) <= 3:
            mean = (weight * moment(flat)).sum()
            error = ((weight * moment(flat).square()).sum() - mean**2).sqrt() / math.sqrt(size)
            assert abs(moment(z).mean() - mean) < 5 * error, powers


def hermite_points(law: MultivariateNormal):
    """Points and weights with the law's moments, up to the ninth."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(5))
    points = law.mean + torch.cartesian_prod(*[nodes] * 3) @ law.scale_tril.T
    return points, torch.cartesian_prod(*[weights / weights.sum()] * 3).prod(dim=1)


@pytest.mark.parametrize("sizes", [Sizes(1, 3), Sizes(3, 1)], ids=["channels", "slice"])
def test_a_linear_nade_is_a_gaussian_with_full_covariance_in_every_order(sizes):
    """Gauss-Hermite points of a correlated normal law, each mean moved by the state of its own node: the best
    cross-entropy is that law's entropy."""
    covariance = torch.tensor([[2.0, 0.9, -0.6], [0.9, 1.0, 0.2], [-0.6, 0.2, 0.7]], dtype=torch.float64)
    true = MultivariateNormal(torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64), covariance)
    values, weight = hermite_points(true)
    shape = (sizes.nodes, sizes.channels)
    states = torch.tensor([[0.3, -1.0, 2.0], [1.1, 0.4, -0.8], [-1.4, 0.6, -1.2]])[:, : sizes.nodes].double()
    moved = (states * torch.tensor([1.5, -1.0, 0.8])[: sizes.nodes]).expand(-1, 3)
    values = (values + moved[:, None]).flatten(0, 1)
    h = states.repeat_interleave(len(weight), dim=0)[:, None, :, None]
    weight = weight.repeat(len(states)) / len(states)
    units = Units(true.mean.reshape(shape), true.stddev.reshape(shape))
    floor, found = true.entropy().item(), []
    for order in itertools.permutations(range(3)):
        torch.manual_seed(0)
        over = "slice" if sizes.nodes > 1 else "channels"
        head = MixtureNADEHead(1, sizes, 1, 2, list(order), over, "none").double()
        found.append(fitted(head, h, values.reshape(-1, 1, *shape), units, weight))
    assert floor - 1e-7 < min(found) and max(found) < floor + 1e-3
    assert max(found) - min(found) < 1e-3


def test_an_unknown_entry_in_any_order_is_given_all_that_is_known():
    """Each entry in turn is unknown: its entropy given both others is reached, whichever of them it is."""
    covariance = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.3], [0.5, 0.3, 1.0]], dtype=torch.float64)
    points, weight = hermite_points(MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance))
    h = torch.ones(3 * len(points), 1, 3, 1, dtype=torch.float64)
    values, context = (
        x.reshape(-1, 1, 3, 1)
        for x in (points.repeat(3, 1), ~torch.eye(3).bool().repeat_interleave(len(points), dim=0))
    )
    units = Units(torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))
    torch.manual_seed(0)
    head = MixtureNADEHead(1, Sizes(3, 1), 1, 3, "any", "slice", "none").double()
    scores = fitted(head, h, values, units, weight.repeat(3), context=context, scored=~context)
    rest = 1 / torch.linalg.inv(covariance).diagonal()  # variance of each given the others
    floor = 0.5 * (2 * math.pi * math.e * rest).log().sum().item()
    assert floor - 1e-7 < scores < floor + 1e-3


# conditional


def test_a_conditional_head_reads_the_covariates_beside_the_state():
    h, values, covariates = make_inputs()
    context = some_known(values)
    for name, inner in (("conditional gaussian", "gaussian"), ("conditional nade", "slice any")):
        head = make(name)
        alone = HEADS[inner](HIDDEN + 2, SIZES).double()
        alone.load_state_dict(head.head.state_dict())
        both, noise = torch.cat([h, covariates], dim=-1), uniforms_for(head, values)
        assert head.uniforms_per_entry == alone.uniforms_per_entry
        law, other = (
            head(h, values, context, units_of(), covariates),
            alone(both, values, context, units_of()),
        )
        assert torch.equal(law.mean, other.mean) and torch.equal(law.stddev, other.stddev)
        assert torch.equal(head.quantile(law, noise), alone.quantile(other, noise))
        drawn = head.draw(h, values, context, units_of(), noise, covariates)
        assert torch.equal(drawn, alone.draw(both, values, context, units_of(), noise))
        moved = head(h, values, context, units_of(), covariates + 1)
        assert (moved.mean != law.mean).all()
        with pytest.raises(ValueError, match="got None"):
            head(h, values, context, units_of())
        with pytest.raises(ValueError, match="got None"):
            head.draw(h, values, context, units_of(), noise)


# mistakes


@pytest.mark.parametrize(
    ("factory", "sizes", "message"),
    [
        (partial(GaussianHead, scale="channel"), SIZES, "'state', 'node' or a positive number; it is 'chan"),
        (partial(GaussianHead, scale=0.0), SIZES, "positive number; it is 0.0"),
        (partial(GaussianHead, scale=math.nan), SIZES, "positive number; it is nan"),
        (partial(MixtureHead, components=0), SIZES, "components must be at least 1; it is 0"),
        (partial(MixtureNADEHead, components=0), SIZES, "components must be at least 1; it is 0"),
        (partial(MixtureNADEHead, width=0), SIZES, "width must be at least 1; it is 0"),
        (partial(MixtureNADEHead, over="nodes"), SIZES, "over must be 'channels' or 'slice'; it is 'nodes'"),
        (partial(MixtureNADEHead, scale="node"), SIZES, "scale must be 'state' or 'entry'; it is 'node'"),
        (partial(MixtureNADEHead, activation="relu"), SIZES, "activation must be .* it is 'relu'"),
        (partial(MixtureNADEHead, order="last"), SIZES, "permutation of 0 to 1; it is 'last'"),
        (partial(MixtureNADEHead, order=[0, 0]), SIZES, r"permutation of 0 to 1; it is \[0, 0\]"),
        (partial(MixtureNADEHead, order=[0, 1], over="slice"), SIZES, "permutation of 0 to 5"),
        (MixtureNADEHead, Sizes(3, 1), "over 'channels' needs at least 2 entries.* or over='slice'"),
        (partial(MixtureNADEHead, over="slice"), Sizes(1, 1), "Use MixtureHead.$"),
        (ConditionalHead, Sizes(3, 2), "needs data with covariates"),
    ],
)
def test_mistakes_are_told_in_one_line(factory, sizes, message, as_a_user):
    with pytest.raises(ValueError, match=message) as error:
        factory(HIDDEN, sizes)
    assert "\n" not in str(error.value)


def test_the_page_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S))
    assert "MixtureNADEHead" in code
    exec(compile(code, str(PAGE), "exec"), {})
