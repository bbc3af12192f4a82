"""In which order things are read: a pure function of (seed, epoch).

Nothing is drawn from a generator that others share, and where a run stands is two numbers. So a resumed run reads on
exactly where it stopped, without reading what came before.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lab.errors import DataError


class ShuffledOrder:
    """Numbers 0 … n − 1 without end: each epoch is a new permutation of all.

    Args:
        n: how many things there are.
        noun: what they are, for sentences.
    """

    def __init__(self, n: int, seed: int, *, noun: str):
        self.n = n
        self._seed = seed
        self._noun = noun
        self._epoch = 0
        self._position = 0  # of this epoch, handed out
        self._order = self._permutation(0)

    @property
    def epochs(self) -> float:
        """How often all was read so far; 1.25 is once and a quarter."""
        return self._epoch + self._position / self.n

    def next(self, count: int) -> NDArray[np.int64]:
        """The next numbers: [count]. Where an epoch ends, the next one fills up."""
        taken = []
        while count:
            if self._position == self.n:
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._permutation(self._epoch)
            piece = self._order[self._position : self._position + count]
            self._position += len(piece)
            count -= len(piece)
            taken.append(piece)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def state(self) -> dict[str, int]:
        """Where the run stands."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from there; costs one permutation, however far it is.

        Raises:
            DataError: the place does not exist: the state comes from other data.
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= self.n:
            raise DataError(
                f"The stored place in the text (epoch {epoch}, {self._noun} {position:,}) does not exist among its "
                f"{self.n:,} {self._noun}s: the text or how it is divided has changed since."
            )
        self._epoch, self._position, self._order = epoch, position, self._permutation(epoch)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        return generator.permutation(self.n)
