"""How the channels of a recording relate: one sound, one sound upside down, or different ones."""

from array import array

import numpy as np

CANCELLED = 0.1  # of the energy that the sum of unrelated channels has
ACTIVE = 1e-3  # of the louder channel's energy: one below carries nothing
ALIKE = 0.5  # correlation of two channels' loudness over time; of one voice in two microphones it is near 1
MIN_BLOCKS = 10  # fewer say nothing about that


class Channels:
    """Energies and products of channels, summed up block by block."""

    def __init__(self) -> None:
        self._products = np.zeros((1, 1))  # (C, C), summed over all blocks
        self._energies = array("d")  # C of each block

    def add(self, planes: np.ndarray) -> None:
        """Take a block (C, S) into account, without its mean: a constant is no sound."""
        centred = planes - planes.mean(axis=1, keepdims=True)
        products = centred @ centred.T
        self._products = self._products + products
        self._energies.extend(np.diag(products))

    @property
    def loudest(self) -> int:
        """The channel with the most energy, counted from 1; the first of those within 1 dB of it."""
        energies = np.diag(self._products)
        return 1 + int(np.argmax(energies > energies.max() * 10 ** (-1 / 10)))

    def cancel(self) -> bool:
        """Tell whether the sum of the channels is far weaker than that of unrelated ones would be."""
        return bool(self._products.sum() < CANCELLED * np.trace(self._products))

    def differ(self) -> bool:
        """Tell whether there are two channels, with sound in both, that grow loud at different times."""
        energies = np.diag(self._products)
        if len(energies) != 2 or len(self._energies) < 2 * MIN_BLOCKS or energies.min() <= ACTIVE * energies.max():
            return False
        blocks = np.array(self._energies).reshape(-1, 2)
        loudest = blocks.max(axis=1)
        loudness = np.sqrt(blocks[loudest > ACTIVE * loudest.max()].T)  # both are silent together, so that says nothing
        return bool(loudness.std(axis=1).all() and np.corrcoef(loudness)[0, 1] < ALIKE)
