"""Longer utterances from short ones: others follow, with pauses between and around, as in speech that nobody cut up.

A model that was trained on neatly cut sentences alone is lost in a recording where they follow each other, or where
silence surrounds them (Narayanan et al. 2019, arXiv 1910.11455; Lu et al. 2021, arXiv 2104.02138).
"""

from collections.abc import Sequence

import numpy as np


class UtteranceJoining:
    """Joins utterances of the training set at random.

    Args:
        max_seconds: of a joined utterance, pauses left out; how long it becomes is drawn evenly up to here.
        probability: of an utterance being joined with others.
        max_pause_seconds: longest pause between two, and before and behind; half of the joints have none.
        low_db: level of the quietest noise in pauses, in decibels of full scale.
        high_db: of the loudest.

    Raises:
        ValueError: a length that is not positive, a probability outside [0, 1], or levels out of order.
    """

    def __init__(
        self,
        *,
        max_seconds: float = 8.0,
        probability: float = 0.5,
        max_pause_seconds: float = 0.6,
        low_db: float = -90.0,
        high_db: float = -45.0,
    ) -> None:
        if max_seconds <= 0 or max_pause_seconds < 0:
            raise ValueError(
                f"`max_seconds` and `max_pause_seconds` must be positive, got {max_seconds} and {max_pause_seconds}."
            )
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"`probability` must lie in [0, 1], got {probability}.")
        if low_db > high_db:
            raise ValueError(f"`low_db` must be at most `high_db`, got {low_db} and {high_db}.")
        self.max_seconds, self.probability, self.max_pause_seconds = max_seconds, probability, max_pause_seconds
        self.low_db, self.high_db = low_db, high_db

    def followers(self, index: int, durations_seconds: Sequence[float], generator: np.random.Generator) -> list[int]:
        """Which utterances follow one, given the durations of all.

        Args:
            index: of the utterance that is first.
            durations_seconds: of every utterance.
            generator: of the draw.
        """
        if generator.random() >= self.probability:
            return []
        left = generator.uniform(0.0, self.max_seconds) - durations_seconds[index]
        chosen: list[int] = []
        while left > 0:
            chosen.append(int(generator.integers(len(durations_seconds))))
            left -= durations_seconds[chosen[-1]]
            if left < 0:
                chosen.pop()
        return chosen

    def join(self, waveforms: Sequence[np.ndarray], sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """Waveforms (N,) each -> one, with pauses."""
        level = 10 ** (generator.uniform(self.low_db, self.high_db) / 20)

        def pause() -> np.ndarray:
            seconds = self.max_pause_seconds * max(0.0, generator.uniform(-1.0, 1.0))
            return level * generator.standard_normal(round(seconds * sample_rate_hz)).astype(np.float32)

        parts = [pause()]
        for waveform in waveforms:
            parts += [waveform, pause()]
        return np.concatenate(parts).astype(np.float32)
