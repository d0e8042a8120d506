"""The SiT backbone in all its sizes."""

from labkit.models.sizes import SIZES, Size, build_model, parse_name
from labkit.models.transformer import Transformer

__all__ = ["SIZES", "Size", "Transformer", "build_model", "parse_name"]
