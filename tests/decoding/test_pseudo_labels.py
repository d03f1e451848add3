"""Which transcripts are kept."""

import pytest
import torch

from speechkit.decoding.pseudo_labels import PseudoLabelFilter, characters_per_second, emission_confidence


def test_confidence_is_of_emitted_labels() -> None:
    probabilities = torch.tensor(
        [
            [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.5, 0.2], [0.0, 0.0, 1.0]],  # the last frame is padding
            [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]],  # nothing is said in two frames
        ]
    )
    found = emission_confidence((probabilities + 1e-9).log(), torch.tensor([3, 2]))
    assert found.tolist() == pytest.approx([(0.8 * 0.5) ** 0.5, 0.0], abs=1e-6)


def test_a_rate_of_speech_is_of_all_texts_together() -> None:
    assert characters_per_second(["Hello, you!", None, "ab"], [1.0, 50.0, 1.0]) == pytest.approx((9 + 2) / 2)
    with pytest.raises(ValueError, match="got none"):
        characters_per_second([None], [1.0])


def test_what_is_unsure_short_or_made_up_is_dropped() -> None:
    labels = PseudoLabelFilter(min_confidence=0.6, min_length_ratio=0.5, max_length_ratio=1.5)

    def keeps(text: str, confidence: float = 0.6) -> bool:
        return labels.keeps(text, seconds=2.0, confidence=confidence, usual_rate=5.0)

    assert [keeps("x" * count) for count in (0, 4, 5, 10, 15, 16)] == [False, False, True, True, True, False]
    assert not keeps("x" * 10, confidence=0.59)
    assert not labels.keeps("x", seconds=0.0, confidence=1.0, usual_rate=5.0)


@pytest.mark.parametrize(
    ("options", "name"),
    [((1.1, 0.5, 2.0), "min_confidence"), ((-0.1, 0.5, 2.0), "min_confidence"), ((0.5, 2.0, 1.0), "max_length_ratio")],
)
def test_wrong_bounds_are_named(options: tuple[float, float, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PseudoLabelFilter(*options)
