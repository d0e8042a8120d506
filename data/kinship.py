"""Groups of images that are alike, for data sets in which no such group may lie on both sides of the split."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SEED = 0


def distances(images: np.ndarray) -> np.ndarray:
    """Root mean square difference of any two of n things, (n, …) uint8, of pixels in [-1, 1]."""
    z = images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1
    squares = (z**2).sum(1)
    return np.sqrt(((squares[:, None] + squares - 2 * z @ z.T) / z.shape[1]).clip(0))


def connected(alike: np.ndarray) -> np.ndarray:
    """The number of each thing's kinship, from which are alike, (n, n): kin of kin are kin."""
    return connected_components(coo_matrix(alike), directed=False)[1]


def split(kin: np.ndarray, share: float, labels: np.ndarray | None = None) -> np.ndarray:
    """Whether each is held out: whole kinships, drawn at random, until they are a share of each class, or of all."""
    held_out, draw = np.zeros(len(kin), dtype=bool), np.random.default_rng(SEED)
    labels = np.zeros(len(kin)) if labels is None else labels
    for label in np.unique(labels):
        own = labels == label
        for kinship in draw.permutation(np.unique(kin[own])):
            members = kin == kinship
            if (held_out & own).sum() + (members & own).sum() <= share * own.sum():
                held_out |= members
    return held_out
