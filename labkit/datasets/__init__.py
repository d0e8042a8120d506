"""Data sets: each is loaded whole as an ``Images``."""

from labkit.datasets.digits import digits
from labkit.datasets.images import Images

__all__ = ["Images", "digits"]
