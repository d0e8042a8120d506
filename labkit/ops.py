"""Small tensor operations that losses and metrics share.

Symbols: B samples, P features a sample.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from labkit.checks import require, whole

SUBNORMAL_MARGIN = 18.0  # e^18: room for the factors, such as λ/(τP), that a gradient is multiplied by on its way back


def expand_like(t: Shaped[Tensor, " batch"], x: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, …, 1) so that it broadcasts against ``x`` of shape (B, …)."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def raw(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor, of any type."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Autocast off, and matrix products in true float32 (no TF32), whatever is switched on outside.

    ``x.float()`` alone does not protect a matrix product from autocast. Inside torch.compile TF32 cannot be switched
    for a part of a graph: there it stays as it is set outside (torch's default is off).
    """
    has_autocast = device.type != "meta"  # where operations are only counted; torch 2.11 cannot trace the query
    with torch.autocast(device.type, enabled=False) if has_autocast else contextlib.nullcontext():
        if device.type != "cuda" or torch.compiler.is_compiling():
            yield
            return
        matmul = torch.backends.cuda.matmul
        switch, off = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        before = getattr(matmul, switch)
        setattr(matmul, switch, off)
        try:
            yield
        finally:
            setattr(matmul, switch, before)


def to_bytes(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Images in [-1, 1] as they are saved: 0 to 255, rounded, clamped outside."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_floats(x: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Images in [-1, 1] from what was saved as 0 to 255."""
    return x.float() / 127.5 - 1


def rows(z: Float[Tensor, "batch ..."], name: str = "z") -> Float[Tensor, "batch features"]:
    """Flatten (B, …) to (B, P) in at least float32: half and bfloat16 are raised, float64 stays."""
    if not z.is_floating_point():
        raise TypeError(f"{name} has dtype {z.dtype}; give floating-point features.")
    if z.ndim < 1 or z.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(z.shape)}; give features of shape (B, …) with at least one entry.")
    return z.reshape(z.shape[0], -1).to(torch.promote_types(z.dtype, torch.float32))


def log_sum_exp(x: Tensor, dim: int = -1) -> Tensor:
    """log Σ exp(x) along ``dim``, without overflow.

    Terms below about 1e-30 of the largest (1e-300 in float64) count as 0. They could not change the sum, but their
    gradients would be subnormal numbers, with which a processor computes up to forty times slower.
    """
    least = x.detach().amax(dim, keepdim=True) + math.log(torch.finfo(x.dtype).tiny) + SUBNORMAL_MARGIN
    return torch.logsumexp(x.masked_fill(x < least, -math.inf), dim)


def log_mean_exp(x: Tensor) -> Float[Tensor, ""]:
    """log of the mean of exp(x) over all entries; see ``log_sum_exp``."""
    return log_sum_exp(x.flatten()) - math.log(x.numel())


def off_diagonal(x: Float[Tensor, "n n"]) -> Float[Tensor, " m"]:
    """The n(n−1) entries off the diagonal of a square matrix, as a vector."""
    n = x.shape[0]
    return x.flatten()[:-1].reshape(n - 1, n + 1)[:, 1:].flatten()


def principal_axes(
    x: Float[Tensor, "n features"], components: int
) -> tuple[Float[Tensor, " features"], Float[Tensor, "components features"]]:
    """Mean of the rows, and their orthonormal axes of largest variance, in float64.

    The largest entry of each axis is positive. Nothing is drawn from a global random state.

    Raises:
        ConfigError: components is not 1 to the smaller of n and the features.
    """
    most = min(x.shape)
    fits = whole(components, 1) and components <= most
    require(fits, "components", components, f"with {x.shape[0]} rows of {x.shape[1]} features take 1 to {most}")
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    # A few axes alone are several times faster than all, by an iteration with a fixed start.
    few = components <= most // 8 and bool((x != x[0]).any())
    pca = PCA(components, svd_solver="arpack" if few else "full", random_state=0)
    with threadpool_limits(1, user_api="blas"), np.errstate(invalid="ignore"):  # identical rows have no variance
        fitted = pca.fit(x.double().numpy(force=True))
    return torch.from_numpy(fitted.mean_.copy()).to(x.device), torch.from_numpy(fitted.components_.copy()).to(x.device)
