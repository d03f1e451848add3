"""Where somebody speaks, by energy alone: samples as they come in, a level and a decision every 10 ms out.

The level of a frame is held against the quietest of the last seconds (minimum statistics, Martin 2001, IEEE Trans.
Speech and Audio Processing 9(5)). It errs on the side of speech: what it calls a pause holds none.
"""

from collections import deque

import numpy as np

FRAME_SECONDS = 0.01
_FLOOR_SECONDS = 10.0  # how long a quiet moment is remembered
_WARM_UP_SECONDS = 1.0  # before so much was heard, the floor is the quietest that a recording can be
_SMOOTHING_FRAMES = 5
_QUIETEST_DB = -80.0  # of full scale: no floor is below this,
_LOUDEST_DB = -40.0  # nor above this, so what is loud is speech, however steady


class VoiceActivityDetector:
    """Levels and decisions do not depend on the pieces in which the samples come.

    Args:
        sample_rate_hz: of the samples.
        threshold_db: a frame so far above the quietest of the last 10 seconds is speech.
    """

    def __init__(self, sample_rate_hz: int, *, threshold_db: float = 10.0) -> None:
        self.frame_length = round(FRAME_SECONDS * sample_rate_hz)
        self.threshold_db = threshold_db
        self._pending = np.zeros(0, dtype=np.float32)
        self._powers = np.zeros(_SMOOTHING_FRAMES - 1)  # of the last frames, for smoothing
        self._num_frames = 0
        self._minima: deque[tuple[int, float]] = deque()  # (frame, level), both increasing: a sliding minimum

    def push(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples (N,) in [-1, 1] -> of each frame that they complete, level in dB of full scale, and speech or not."""
        pending = np.concatenate([self._pending, samples])
        count = len(pending) // self.frame_length
        frames = pending[: count * self.frame_length].reshape(count, self.frame_length)
        self._pending = pending[count * self.frame_length :]
        powers = np.concatenate([self._powers, frames.var(axis=1, dtype=np.float64)])  # the variance knows no offset
        self._powers = powers[count:]
        if count == 0:
            return np.zeros(0), np.zeros(0, dtype=bool)
        smooth = np.lib.stride_tricks.sliding_window_view(powers, _SMOOTHING_FRAMES).mean(axis=1)
        smooth_levels = _decibels(smooth)
        floors = np.array([self._floor(level) for level in smooth_levels.tolist()])
        return _decibels(powers[-count:]), smooth_levels > floors + self.threshold_db

    def _floor(self, level: float) -> float:
        """Takes the next level; the least of the last seconds."""
        frame, minima = self._num_frames, self._minima
        self._num_frames += 1
        while minima and minima[-1][1] >= level:
            minima.pop()
        minima.append((frame, level))
        if minima[0][0] <= frame - _FLOOR_SECONDS / FRAME_SECONDS:
            minima.popleft()
        return min(minima[0][1], _LOUDEST_DB) if frame * FRAME_SECONDS >= _WARM_UP_SECONDS else _QUIETEST_DB


def _decibels(powers: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(powers, 10 ** (_QUIETEST_DB / 10)))
