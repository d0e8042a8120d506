"""Exercises on measuring: effective rank, CKA, Fréchet distance, intervals over seeds (notebooks 04 and 05)."""

from collections.abc import Callable

import torch
from torch import Tensor

from labkit.exercises.checking import Exercise, Function, Law, Mistake, numbers
from labkit.metrics import effective_rank, frechet_distance, linear_cka


def _cloud(seed: int = 0) -> Tensor:
    """A cloud with strong and weak directions and a mean."""
    return numbers(20, 6, seed=seed) * torch.linspace(1.5, 0.1, 6) + 0.8


def _sigma(z: Tensor, centred: bool = True) -> Tensor:
    return torch.linalg.svdvals(z - z.mean(dim=0) if centred else z)


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares / shares.sum()).sum()


RANK = Exercise(
    name="effective_rank",
    notebook="04",
    title="effective rank",
    minutes=5,
    difficulty=1,
    why="A large cloud can still be a flat one. This number says in how many directions features really spread, "
    "whatever their size, and the explorer's captions will quote yours.",
    stub='''
def effective_rank(z):
    """exp of the entropy −Σ p_k log p_k, where p_k = σ_k / Σσ and σ are the singular values of the centred features.

    z: features (B, P).  Returns one number, from 1 (all on a line) to min(B − 1, P).
    """
    ...
''',
    solution="""
def effective_rank(z):
    sigma = torch.linalg.svdvals(z - z.mean(dim=0))
    p = sigma / sigma.sum()
    p = p[p > 1e-7]
    return torch.exp(-(p * p.log()).sum())
""",
    oracle=effective_rank,
    cases=lambda: [(_cloud(),), (numbers(5, 9, seed=1) + 0.4,)],
    laws=(
        Law("twice the features have the same rank", lambda f: (f(2 * _cloud()), f(_cloud()))),
        Law("a shift changes nothing", lambda f: (f(_cloud() + 3), f(_cloud()))),
    ),
    mistakes=(
        Mistake(
            "not centred",
            "The features keep their mean, and a common offset counts as a direction of its own. What do you take off "
            "first?",
            lambda z: _entropy(_sigma(z, centred=False)).exp(),
        ),
        Mistake(
            "rows centred",
            "You centre each sample over its features. The mean to take off is the one over the samples.",
            lambda z: _entropy(_sigma(z - z.mean(dim=1, keepdim=True), centred=False)).exp(),
        ),
        Mistake(
            "variances",
            "Your shares come from the squares σ², the variances. That is used, too, but this definition takes σ "
            "itself.",
            lambda z: _entropy(_sigma(z).square()).exp(),
        ),
        Mistake(
            "entropy alone",
            "This is the entropy. One function turns it into a number of directions.",
            lambda z: _entropy(_sigma(z)),
        ),
        Mistake(
            "entropy's sign",
            "The entropy has the wrong sign: log p is negative, so what should stand before the sum?",
            lambda z: (-_entropy(_sigma(z))).exp(),
        ),
        Mistake(
            "bits",
            "The logarithm has base 2 and the exponential base e. They should match.",
            lambda z: (_entropy(_sigma(z)) / torch.tensor(2.0).log()).exp(),
        ),
        Mistake(
            "no shares",
            "The singular values are not divided by their sum, so they are no shares yet.",
            lambda z: torch.special.entr(_sigma(z)[_sigma(z) > 1e-6]).sum().exp(),
        ),
        Mistake(
            "participation ratio",
            "This is the participation ratio of the singular values: a related number, without entropy.",
            lambda z: _sigma(z).sum() ** 2 / _sigma(z).square().sum(),
        ),
        Mistake(
            "participation ratio of variances",
            "This is the participation ratio, (Σσ²)²/Σσ⁴: a related number, without entropy.",
            lambda z: _sigma(z).square().sum() ** 2 / _sigma(z).pow(4).sum(),
        ),
        Mistake(
            "matrix rank",
            "This counts the directions that are not exactly zero. A direction that is hardly used should hardly "
            "count.",
            lambda z: torch.linalg.matrix_rank(z - z.mean(dim=0)).double(),
        ),
    ),
)


def _centred(z: Tensor) -> Tensor:
    return z - z.mean(dim=0)


def _cka(a: Tensor, b: Tensor) -> Tensor:
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


CKA = Exercise(
    name="linear_cka",
    notebook="04",
    title="linear CKA",
    minutes=5,
    difficulty=2,
    why="Two networks share no axes, so you cannot subtract their features. CKA compares who is near whom instead, "
    "and it is blind to rotation and to size: that is its strength, and here its trap.",
    stub='''
def linear_cka(a, b):
    """‖AᵀB‖² / (‖AᵀA‖ · ‖BᵀB‖), where A and B are centred and ‖·‖ is the Frobenius norm.

    a, b: features of the same samples, (B, P) and (B, Q).  Returns one number, from 0 to 1.
    """
    ...
''',
    solution="""
def linear_cka(a, b):
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    return (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
""",
    oracle=linear_cka,
    cases=lambda: [
        ((a := _cloud()), a[:, :4] * 2 + numbers(20, 4, seed=3)),
        (numbers(9, 5, seed=4) + 0.7, numbers(9, 7, seed=5) - 0.5),
    ],
    laws=(
        Law("of features with themselves it is 1", lambda f: (f(_cloud(), _cloud()), 1.0)),
        Law("ten times the features change nothing", lambda f: (f(10 * _cloud(), _cloud(1)), f(_cloud(), _cloud(1)))),
        Law("a shift changes nothing", lambda f: (f(_cloud() + 2, _cloud(1)), f(_cloud(), _cloud(1)))),
    ),
    mistakes=(
        Mistake(
            "not centred",
            "The features keep their means, and two clouds that are merely far from the origin look alike.",
            _cka,
        ),
        Mistake(
            "rows centred",
            "You centre each sample over its features. The mean to take off is the one over the samples.",
            lambda a, b: _cka(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)),
        ),
        Mistake(
            "numerator not squared",
            "The numerator is ‖AᵀB‖ without its square; ten times the features would then change the result.",
            lambda a, b: (
                (_centred(a).T @ _centred(b)).norm()
                / ((_centred(a).T @ _centred(a)).norm() * (_centred(b).T @ _centred(b)).norm())
            ),
        ),
        Mistake(
            "denominator squared",
            "The two norms in the denominator are squared. They should stand there as they are.",
            lambda a, b: (
                (_centred(a).T @ _centred(b)).square().sum()
                / ((_centred(a).T @ _centred(a)).norm() * (_centred(b).T @ _centred(b)).norm()) ** 2
            ),
        ),
        Mistake(
            "root",
            "This is the root of CKA. Is the numerator squared, and the denominator not under a root?",
            lambda a, b: _cka(_centred(a), _centred(b)).sqrt(),
        ),
        Mistake(
            "norms of the features",
            "You divide by ‖A‖² ‖B‖². The denominator takes the norm of the *products* AᵀA and BᵀB.",
            lambda a, b: (_centred(a).T @ _centred(b)).square().sum() / (_centred(a).norm() * _centred(b).norm()) ** 2,
        ),
        Mistake(
            "not normalised",
            "The numerator is right. It is not divided by anything yet.",
            lambda a, b: (_centred(a).T @ _centred(b)).square().sum(),
        ),
        Mistake(
            "one minus",
            "This is a distance: 1 for unrelated features, 0 for equal ones. CKA is the similarity.",
            lambda a, b: 1 - _cka(_centred(a), _centred(b)),
        ),
    ),
)


def _frechet(mean: Function, covariance: Function) -> Function:
    """Another Fréchet distance: a part (μ_a, μ_b) and a part (Σ_a, Σ_b, Σ_a Σ_b's root's trace)."""

    def distance(a: Tensor, b: Tensor, cov: Callable[[Tensor], Tensor] = lambda z: z.T.cov()) -> Tensor:
        product = torch.linalg.eigvals(cov(a) @ cov(b)).real.clamp_min(0).sqrt().sum()
        return mean(a.mean(dim=0), b.mean(dim=0)) + covariance(cov(a).trace(), cov(b).trace(), product)

    return distance


def _means(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum()


def _overlap(a: Tensor, b: Tensor, root: Tensor) -> Tensor:
    return a + b - 2 * root


FRECHET = Exercise(
    name="frechet_distance",
    notebook="04",
    title="the Fréchet distance",
    minutes=8,
    difficulty=2,
    why="The number that decides most papers, FID, is this distance on the features of one large network. It is a "
    "formula for two Gaussians, and it never asks whether your features are Gaussian.",
    stub='''
def frechet_distance(a, b):
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with means μ and covariances Σ (divided by n − 1).

    a, b: features (n, d) and (m, d), in float64.  Returns one number of at least 0.
    The trace of (Σ_a Σ_b)^½ is the sum of the roots of the eigenvalues of Σ_a Σ_b (torch.linalg.eigvals, real part).
    """
    ...
''',
    solution="""
def frechet_distance(a, b):
    cov_a, cov_b = a.T.cov(), b.T.cov()
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return means + cov_a.trace() + cov_b.trace() - 2 * root
""",
    oracle=frechet_distance,
    cases=lambda: [
        (_cloud().double(), 1.3 * _cloud(1).double() - 0.4),
        (numbers(12, 3, seed=2).double(), 0.5 * numbers(15, 3, seed=3).double() + 0.6),
    ],
    laws=(
        Law("of a set with itself it is 0", lambda f: (f(_cloud().double(), _cloud().double()) + 1, 1.0)),
        Law(
            "a shift by 1 in one feature adds 1",
            lambda f: (f(_cloud().double() + torch.eye(6)[0], _cloud().double()), 1.0),
        ),
    ),
    mistakes=(
        Mistake(
            "means not squared",
            "The distance between the means is not squared.",
            _frechet(lambda a, b: (a - b).norm(), _overlap),
        ),
        Mistake(
            "no means",
            "The means do not count yet: two clouds far apart would be the same.",
            _frechet(lambda a, b: 0.0, _overlap),
        ),
        Mistake(
            "mean over features",
            "You average over the d features where the squared norm sums.",
            _frechet(lambda a, b: (a - b).square().mean(), _overlap),
        ),
        Mistake("no covariances", "The covariances do not count yet.", _frechet(_means, lambda a, b, root: 0.0)),
        Mistake(
            "no 2",
            "A 2 is missing before the root; of a set with itself the distance should be 0.",
            _frechet(_means, lambda a, b, root: a + b - root),
        ),
        Mistake(
            "plus",
            "The root is added where it should be taken off; of a set with itself the distance should be 0.",
            _frechet(_means, lambda a, b, root: a + b + 2 * root),
        ),
        Mistake(
            "root of it all",
            "You take the root at the end. Tables of FID show the squared distance, without that root.",
            lambda a, b: _frechet(_means, _overlap)(a, b).sqrt(),
        ),
        Mistake(
            "divided by n",
            "The covariances are divided by n. Here they are divided by n − 1.",
            lambda a, b: _frechet(_means, _overlap)(a, b, lambda z: z.T.cov(correction=0)),
        ),
        Mistake(
            "root entry by entry",
            "You take the root of each entry of the product. A matrix root is another thing: M^½ · M^½ = M.",
            lambda a, b: (
                _means(a.mean(dim=0), b.mean(dim=0))
                + _overlap(
                    a.T.cov().trace(), b.T.cov().trace(), (a.T.cov() @ b.T.cov()).diagonal().clamp_min(0).sqrt().sum()
                )
            ),
        ),
        Mistake(
            "no root",
            "The product of the covariances stands there without its root.",
            lambda a, b: (
                _means(a.mean(dim=0), b.mean(dim=0))
                + _overlap(a.T.cov().trace(), b.T.cov().trace(), (a.T.cov() @ b.T.cov()).trace())
            ),
        ),
        Mistake(
            "variances alone",
            "You use the variances of single features and leave out how features vary together.",
            lambda a, b: _means(a.mean(dim=0), b.mean(dim=0)) + (a.std(dim=0) - b.std(dim=0)).square().sum(),
        ),
        Mistake(
            "covariances as points",
            "You take the squared difference of the two covariance matrices. The formula has a trace and a matrix "
            "root.",
            lambda a, b: _means(a.mean(dim=0), b.mean(dim=0)) + (a.T.cov() - b.T.cov()).square().sum(),
        ),
    ),
)


def _interval(ours: Tensor, baseline: Tensor, level: float = 0.95, df: int = 1, correction: int = 1, root: bool = True):
    """The paired interval, with room for mistakes."""
    from scipy.stats import t

    d = (ours - baseline).double()
    n = len(d)
    half = t.ppf((1 + level) / 2, n - df) * d.std(correction=correction).item() / (n**0.5 if root else 1)
    return d.mean().item(), d.mean().item() - half, d.mean().item() + half


def _normal_interval(ours: Tensor, baseline: Tensor, factor: float):
    d = (ours - baseline).double()
    half = factor * d.std().item() / len(d) ** 0.5
    return d.mean().item(), d.mean().item() - half, d.mean().item() + half


def _unpaired(ours: Tensor, baseline: Tensor, welch: bool):
    from scipy.stats import ttest_ind

    low, high = ttest_ind(ours.double().numpy(), baseline.double().numpy(), equal_var=not welch).confidence_interval()
    return (ours - baseline).double().mean().item(), low, high


def _library_interval(ours: Tensor, baseline: Tensor) -> tuple[float, float, float]:
    import pandas as pd

    from labkit.experiments.statistics import paired_differences

    rows = [
        {"run": run, "seed": seed, "measure": "value", "value": value.item()}
        for run, values in (("baseline", baseline), ("ours", ours))
        for seed, value in enumerate(values)
    ]
    row = paired_differences(pd.DataFrame(rows), "baseline").iloc[0]
    return row["difference"], row["low"], row["high"]


INTERVAL = Exercise(
    name="paired_interval",
    notebook="05",
    title="a paired interval over seeds",
    minutes=6,
    difficulty=2,
    why="Is it better, or was it the seed? With three or four seeds the honest answer is an interval, and it is "
    "often wide. Pairs help: two runs of one seed share so much luck that most of it cancels.",
    stub='''
def paired_interval(ours, baseline):
    """Mean of the differences d = ours − baseline, seed by seed, and its 95 % interval d̄ ± t·s/√n.

    ours, baseline: one value for each of n seeds, in the same order, (n,).
    s: deviation of d (divided by n − 1).  t: scipy.stats.t.ppf(0.975, n − 1).  Returns difference, low, high.
    """
    ...
''',
    solution="""
import scipy.stats

def paired_interval(ours, baseline):
    d = ours - baseline
    n = len(d)
    half = scipy.stats.t.ppf(0.975, n - 1) * d.std().item() / n**0.5
    mean = d.mean().item()
    return mean, mean - half, mean + half
""",
    oracle=_library_interval,
    cases=lambda: [
        (1.2 + 0.1 * numbers(4) + (luck := 0.4 * numbers(4, seed=1)), 1.0 + luck),
        (0.5 + numbers(6, seed=2), 0.3 + 0.4 * numbers(6, seed=3)),
    ],
    mistakes=(
        Mistake(
            "sign",
            "You subtract our values from the baseline's. Then a rise looks like a fall.",
            lambda ours, baseline: _interval(baseline, ours),
        ),
        Mistake(
            "unpaired",
            "You treat the two sets as strangers. Runs of one seed belong together: which luck cancels if you "
            "subtract first?",
            lambda ours, baseline: _unpaired(ours, baseline, welch=False),
        ),
        Mistake(
            "unpaired, Welch",
            "You compare two separate means (Welch's test). Runs of one seed belong together: subtract first.",
            lambda ours, baseline: _unpaired(ours, baseline, welch=True),
        ),
        Mistake(
            "normal",
            "Your factor is the normal distribution's 1.96. With so few seeds the deviation is itself a guess, and "
            "Student's t is wider.",
            lambda ours, baseline: _normal_interval(ours, baseline, 1.959964),
        ),
        Mistake(
            "standard error",
            "This is plus or minus one standard error, which covers far less than 95 %.",
            lambda ours, baseline: _normal_interval(ours, baseline, 1.0),
        ),
        Mistake(
            "spread of seeds",
            "You show how far *single* seeds scatter. The mean of n of them is known better: by which factor?",
            lambda ours, baseline: _interval(ours, baseline, root=False),
        ),
        Mistake(
            "one-sided",
            "Your interval leaves 5 % out at *each* end. A 95 % interval leaves out 2.5 % there.",
            lambda ours, baseline: _interval(ours, baseline, level=0.90),
        ),
        Mistake(
            "n degrees",
            "Student's t needs the degrees of freedom. How many are left once the mean is taken?",
            lambda ours, baseline: _interval(ours, baseline, df=0),
        ),
        Mistake(
            "divided by n",
            "The deviation is divided by n. For a sample it is n − 1, which matters most when n is small.",
            lambda ours, baseline: _interval(ours, baseline, correction=0),
        ),
    ),
)

EXERCISES = (RANK, CKA, FRECHET, INTERVAL)
