"""Exercises on measuring: effective rank, CKA, Fréchet distance, intervals over seeds (notebooks 04 and 05)."""

import torch
from torch import Tensor

from labkit import metrics as library
from labkit.exercises.checking import Exercise, numbers


def effective_rank(z):
    """exp of the entropy −Σ_k p_k log p_k of the shares p_k = σ_k / Σ_l σ_l.

    σ_k are the singular values of the features after their mean over the samples has been subtracted.

    z: P features of B samples, (B, P).  Returns one number, from 1 (all on a line) to the smaller of B − 1 and P.
    """
    sigma = torch.linalg.svdvals(z - z.mean(dim=0))
    p = sigma / sigma.sum()
    p = p[p > 1e-7]  # without shares of 0, which have no logarithm
    return torch.exp(-(p * p.log()).sum())


def linear_cka(a, b):
    """‖AᵀB‖² / (‖AᵀA‖ · ‖BᵀB‖), where A and B are a and b without their means over the samples.

    ‖·‖ is the Frobenius norm, the root of the sum of all squared entries.

    a, b: P and Q features of the same B samples, (B, P) and (B, Q).  Returns one number from 0 to 1.
    """
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    return (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())


def frechet_distance(a, b):
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with means μ and covariances Σ over the samples.

    A covariance is divided by the number of its samples minus 1. The trace of (Σ_a Σ_b)^½ is the sum of the square
    roots of the eigenvalues of Σ_a Σ_b; take the real part of `torch.linalg.eigvals`.

    a, b: d features of n and of m samples, (n, d) and (m, d), in float64.  Returns one number of at least 0.
    """
    cov_a, cov_b = a.T.cov(), b.T.cov()
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return means + cov_a.trace() + cov_b.trace() - 2 * root


def paired_interval(ours, baseline):
    """Mean d̄ of the differences d = ours − baseline, seed by seed, and their 95 % interval d̄ ± t·s/√n.

    s is the standard deviation of d, divided by n − 1, and t is `scipy.stats.t.ppf(0.975, n − 1)`.

    ours, baseline: one value for each of n seeds, in the same order, (n,).
    Returns three numbers: the mean difference, and the lower and the upper end of its interval.
    """
    from scipy.stats import t

    d = ours - baseline  # (n,)
    n = len(d)
    half = t.ppf(0.975, n - 1) * d.std().item() / n**0.5  # half the width of the interval
    mean = d.mean().item()
    return mean, mean - half, mean + half


def _cloud(seed: int = 0) -> Tensor:
    """A cloud with strong and weak directions and a mean."""
    return numbers(20, 6, seed=seed) * torch.linspace(1.5, 0.1, 6) + 0.8


def _interval(ours: Tensor, baseline: Tensor) -> tuple[float, float, float]:
    import pandas as pd

    from labkit.experiments.statistics import paired_differences

    wide = pd.DataFrame({"seed": range(len(ours)), "baseline": baseline.tolist(), "ours": ours.tolist()})
    table = wide.melt("seed", var_name="run").assign(measure="value")
    row = paired_differences(table, "baseline").iloc[0]
    return row["difference"], row["low"], row["high"]


EXERCISES = {
    "effective_rank": Exercise(
        effective_rank,
        oracle=library.effective_rank,
        inputs=lambda: [(_cloud(),), (numbers(5, 9, seed=1) + 0.4,)],
        laws={"twice the features have the same rank": lambda f: (f(2 * _cloud()), f(_cloud()))},
        mistakes={
            "z - z.mean(dim=0) → z": "The features keep their mean, so what all samples share counts as a direction "
            "of its own. What should you subtract first?",
            "z.mean(dim=0) → z.mean(dim=1, keepdim=True)": "You subtract from each sample the mean of its features. "
            "Subtract from each feature its mean over the samples.",
            "z.mean(dim=0) → z.mean()": "You subtract one mean, that of all numbers. Each feature has its own.",
            "z - z.mean(dim=0) → (z - z.mean(dim=0)) / z.std(dim=0)": "You divide each feature by its deviation, so a "
            "direction that is hardly used counts as much as any other. Subtract the mean alone.",
            "torch.linalg.svdvals(z - z.mean(dim=0)) → z.std(dim=0)": "You take the deviation of each feature. The "
            "directions in which a cloud spreads need not lie along the features.",
            "sigma / sigma.sum() → sigma**2 / (sigma**2).sum()": "Your shares come from the squares σ², which are "
            "variances. Some papers do that; this definition uses σ itself.",
            "torch.exp(-(p * p.log()).sum()) → -(p * p.log()).sum()": "This is the entropy. Which function turns it "
            "into a number of directions?",
            "-(p * → (p *": "The entropy has the wrong sign. A share is below 1, so its logarithm is negative.",
            "p.log() → p.log2()": "Your logarithm has base 2 and your exponential has base e. The two should match.",
            "sigma / sigma.sum() → sigma": "The singular values are not divided by their sum, so they are not shares "
            "of a whole yet.",
            "torch.exp(-(p * p.log()).sum()) → 1 / p.square().sum()": "This is the participation ratio of the "
            "singular values, (Σσ)²/Σσ². It is a relative of this number, but it has no entropy in it.",
            "torch.exp(-(p * p.log()).sum()) → sigma.square().sum() ** 2 / sigma.pow(4).sum()": "This is the "
            "participation ratio of the variances, (Σσ²)²/Σσ⁴: a related number, but without an entropy.",
            "torch.exp(-(p * p.log()).sum()) → (sigma > 1e-5).sum()": "You count the directions whose spread is not "
            "exactly zero. A direction that is hardly used should hardly count.",
        },
    ),
    "linear_cka": Exercise(
        linear_cka,
        oracle=library.linear_cka,
        inputs=lambda: [
            ((a := _cloud()), a[:, :4] * 2 + numbers(20, 4, seed=3)),
            (numbers(9, 5, seed=4) + 0.7, numbers(9, 7, seed=5) - 0.5),
        ],
        laws={
            "the CKA of features with themselves is 1": lambda f: (f(_cloud(), _cloud()), 1.0),
            "a shift changes nothing": lambda f: (f(_cloud() + 2, _cloud(1)), f(_cloud(), _cloud(1))),
        },
        mistakes={
            "a, b = a - a.mean(dim=0), b - b.mean(dim=0) → pass": "The features keep their means, so any two clouds "
            "that lie far from the origin look alike.",
            "mean(dim=0) → mean(dim=1, keepdim=True)": "You subtract from each sample the mean of its features. "
            "Subtract from each feature its mean over the samples.",
            "return → a, b = a / a.std(dim=0), b / b.std(dim=0)\n    return": "You divide each feature by its "
            "deviation. That changes which samples lie near which.",
            ".norm() ** 2 → .norm()": "The numerator is not squared, so larger features would change the result.",
            "(b.T @ b).norm()) → (b.T @ b).norm()) ** 2": "You square the denominator. Its two norms should stay as "
            "they are.",
            "norm() ** 2 / → norm() /; (b.T @ b).norm()) → (b.T @ b).norm()) ** 0.5": "This is the square root of "
            "CKA. Is the numerator squared, and the denominator free of roots?",
            "(a.T @ a).norm() * (b.T @ b).norm() → (a.norm() * b.norm()) ** 2": "You divide by ‖A‖² ‖B‖². The formula "
            "takes the norms of the *products* AᵀA and BᵀB.",
            "/ ((a.T @ a).norm() * (b.T @ b).norm()) →": "The numerator is right, but not divided by anything yet.",
            "return → return 1 -": "This is a distance, which is 0 for equal features. CKA is a similarity, which is "
            "1 for them.",
        },
    ),
    "frechet_distance": Exercise(
        frechet_distance,
        oracle=library.frechet_distance,
        inputs=lambda: [
            (_cloud().double(), 1.3 * _cloud(1).double() - 0.4),
            (numbers(12, 3, seed=2).double(), 0.5 * numbers(15, 3, seed=3).double() + 0.6),
        ],
        laws={"the distance of a set from itself is 0": lambda f: (f(_cloud().double(), _cloud().double()), 0.0)},
        mistakes={
            ".square().sum() → .norm()": "You do not square the distance of the two means.",
            "return means + → return": "The means do not count yet, so two clouds far apart could be called the same.",
            ".square().sum() → .square().mean()": "You average over the d features of the means, where a squared norm "
            "is a sum.",
            "means + cov_a.trace() + cov_b.trace() - 2 * root → means": "The covariances do not count yet.",
            "2 * root → root": "The root should be subtracted twice, so that the distance of a set from itself is 0.",
            "- 2 * → + 2 *": "You add the root. Subtract it, so that the distance of a set from itself is 0.",
            "means + → (means +; 2 * root → 2 * root) ** 0.5": "You take a square root at the end. Tables of FID list "
            "the squared distance, without that root.",
            ".cov() → .cov(correction=0)": "You divide the covariances by n. They should be divided by n − 1.",
            "torch.linalg.eigvals(cov_a @ cov_b).real → (cov_a @ cov_b).diagonal()": "You take the root of single "
            "entries of the product. The root of a matrix M is another thing: M^½ · M^½ = M.",
            "a.T.cov(), b.T.cov() → a.T @ a / (len(a) - 1), b.T @ b / (len(b) - 1)": "Your covariances keep the means. "
            "Subtract from each feature its mean first.",
            ".clamp_min(0).sqrt() →": "The product of the covariances is there, but without its root.",
            "torch.linalg.eigvals(cov_a @ cov_b).real → (cov_a.diagonal() * cov_b.diagonal())": "You use the variance "
            "of each feature by itself, and leave out how features vary together.",
            "cov_a.trace() + cov_b.trace() - 2 * root → (cov_a - cov_b).square().sum()": "You take the squared "
            "difference of the two covariances. The formula has a trace and the root of a matrix.",
        },
    ),
    "paired_interval": Exercise(
        paired_interval,
        oracle=_interval,
        inputs=lambda: [
            (1.2 + 0.1 * numbers(4) + (luck := 0.4 * numbers(4, seed=1)), 1.0 + luck),
            (0.5 + numbers(6, seed=2), 0.3 + 0.4 * numbers(6, seed=3)),
        ],
        returns=("the mean difference", "the lower end", "the upper end"),
        mistakes={
            "ours - baseline → baseline - ours": "You subtract our values from the baseline's, so a rise looks like a "
            "fall.",
            "n = len(d) → n, a, b = len(d), ours.var().item(), baseline.var().item(); n - 1 → 2 * n - 2; "
            "d.std().item() → (a + b) ** 0.5": "You treat the two sets as if they had nothing in common. Runs with "
            "the same seed belong together: which luck cancels if you subtract first?",
            "n = len(d) → n, a, b = len(d), ours.var().item(), baseline.var().item(); n - 1 → (n - 1) * (a + b) ** 2 "
            "/ (a**2 + b**2); d.std().item() → (a + b) ** 0.5": "You compare two separate means, as Welch's test "
            "does. Runs with the same seed belong together, so subtract first.",
            "t.ppf(0.975, n - 1) → 1.96": "Your factor is 1.96, from the normal distribution. With so few seeds the "
            "deviation is itself uncertain, and Student's t is larger.",
            "t.ppf(0.975, n - 1) * →": "This is plus or minus one standard error, which covers far less than 95 %.",
            "/ n**0.5 →": "You show how far *single* seeds scatter. By which factor is the mean of n seeds known "
            "better?",
            "/ n**0.5 → / n": "You divide by n. By which factor is the mean of n seeds known better than one?",
            "0.975 → 0.95": "Your interval leaves 5 % out at *each* end. A 95 % interval leaves out 2.5 % at each.",
            "n - 1 → n": "Student's t needs the degrees of freedom. How many are left once the mean is known?",
            "std() → std(correction=0)": "You divide the deviation by n. For a sample, divide by n − 1; this matters "
            "most when n is small.",
        },
    ),
}
