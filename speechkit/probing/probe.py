"""How good a representation is without fine-tuning: who speaks, what is said, and how near the same words lie."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.audio import AudioError
from speechkit.bundle import Bundle
from speechkit.data import Utterance, read_utterances
from speechkit.decoding import count_errors, error_rate, greedy_decode
from speechkit.probing.abx import ABXScore, Segment, abx_error
from speechkit.probing.alignment import (
    Label,
    align_by,
    align_text,
    fit_ctc_head,
    head_logits,
    labels_of_frames,
    words_of,
)
from speechkit.probing.extraction import FeatureExtractor, draw_utterances
from speechkit.probing.linear import LinearProbe
from speechkit.text import CharTokenizer, Tokenizer, WordTokenizer, normalize_text

_TEST_EVERY = 4  # of an utterance's speaker's utterances, one is for test
_MAP_FRAMES = 4000


@dataclass(frozen=True)
class ProbeAccuracy:
    """A linear probe of frames, on utterances that it was not fitted on."""

    accuracy: float
    chance: float  # the share in the test frames of the class that is the most frequent in training
    num_classes: int
    num_train_frames: int
    num_test_frames: int


@dataclass(frozen=True)
class FrameSample:
    """Some frames with what is known of them, for a map."""

    frames: Tensor  # (N, D)
    speakers: list[str | None]
    labels: list[str | None]


@dataclass(frozen=True)
class Probe:
    """The figures; none where the manifest does not allow them, for the reason in `skipped`.

    Attributes:
        speaker: linear probe of frames for the speaker.
        label: linear probe of frames for the character that is said there (or word, if `label_kind` says so).
        label_kind: "character" or "word".
        ctc_cer: character error rate of a linear CTC head on frozen frames, greedy; none with a given aligner.
        abx_within: ABX error, all three of one speaker.
        abx_across: ABX error, X being of another speaker.
        num_utterances: that were read.
        seconds: of audio in frames.
        skipped: figure -> why it is not there.
        failures: files that could not be read, one line each.
        sample: frames for `plot_map`.
    """

    speaker: ProbeAccuracy | None
    label: ProbeAccuracy | None
    label_kind: str
    ctc_cer: float | None
    abx_within: ABXScore | None
    abx_across: ABXScore | None
    num_utterances: int
    seconds: float
    skipped: dict[str, str]
    failures: list[str]
    sample: FrameSample = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Figures as fractions, without the sample."""
        figures = asdict(replace(self, sample=FrameSample(torch.zeros(0, 0), [], [])))
        figures.pop("sample")
        for name in ("abx_within", "abx_across"):
            score = getattr(self, name)
            figures[name] = None if score is None else score._asdict()
        return figures


@dataclass
class _Spoken:
    """An utterance, its frames, and what is said in them."""

    utterance: Utterance
    frames: Tensor
    text: str
    is_test: bool = False
    labels: list[Label] | None = None


def probe(
    front_end: nn.Module,
    encoder: nn.Module,
    manifest: str | os.PathLike[str],
    *,
    what: str = "context",
    layer: int | None = None,
    aligner: Bundle | None = None,
    minutes: float = 30.0,
    max_frames: int = 20000,
    num_triples: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], Any] = lambda num_utterances: None,
) -> Probe:
    """Probes an encoder on the utterances of a manifest; one in four of each speaker's is for test.

    Args:
        front_end: waveform -> features.
        encoder: features -> representations; it is frozen.
        manifest: JSON lines; with `speaker`, `text` or both.
        what: as in `FeatureExtractor`.
        layer: as in `FeatureExtractor`.
        aligner: a recogniser of characters or words that says when they are said; without one, a linear CTC head is
            fitted on the frozen frames. The figures of two encoders compare best with the same aligner.
        minutes: of audio that are drawn from the manifest at random.
        max_frames: that a linear probe is fitted on, and as many for test.
        num_triples: of each ABX score.
        seed: of all draws.
        device: where front end and encoder run.
        on_progress: called with the number of utterances that were done.

    Raises:
        ValueError: no manifest, or nothing in it that can be probed, with all the reasons.
    """
    extractor = FeatureExtractor(front_end, encoder, what=what, layer=layer, device=device)
    chosen = draw_utterances(read_utterances(manifest), minutes, seed)
    spoken, failures = _read(extractor, chosen, on_progress)
    if not spoken:
        raise ValueError(f"{manifest}: no utterance could be read" + (f"; first: {failures[0]}" if failures else ""))
    _split(spoken)
    skipped: dict[str, str] = {}
    speakers = [[item.utterance.speaker] * len(item.frames) for item in spoken]
    speaker = _probe_frames("speaker", spoken, speakers, skipped, max_frames=max_frames, seed=seed)
    label_kind, ctc_cer, labels = _label(spoken, extractor, aligner, seed, skipped)
    label = None
    if labels:
        label = _probe_frames("label", spoken, labels, skipped, max_frames=max_frames, seed=seed)
    segments = _segments(spoken, extractor, label_kind) if labels else []
    scores: dict[str, ABXScore | None] = {"abx_within": None, "abx_across": None}
    for name in scores:
        if not labels:
            skipped[name] = skipped["label"]
            continue
        scores[name] = abx_error(segments, across_speakers=name == "abx_across", num_triples=num_triples, seed=seed)
        if scores[name] is None:
            by = "two known speakers" if name == "abx_across" else "a known speaker twice"
            skipped[name] = f"no word is said by {by}, and another word besides"
    if speaker is None and label is None and not any(scores.values()):
        raise ValueError(f"{manifest}: nothing can be probed: {'; '.join(sorted(set(skipped.values())))}")
    return Probe(
        speaker=speaker,
        label=label,
        label_kind=label_kind,
        ctc_cer=ctc_cer,
        abx_within=scores["abx_within"],
        abx_across=scores["abx_across"],
        num_utterances=len(spoken),
        seconds=sum(len(item.frames) for item in spoken) * extractor.step_seconds,
        skipped=skipped,
        failures=failures,
        sample=_sample(spoken, labels, seed),
    )


def _read(
    extractor: FeatureExtractor, utterances: Sequence[Utterance], on_progress: Callable[[int], Any]
) -> tuple[list[_Spoken], list[str]]:
    spoken, failures = [], []
    for utterance, frames in zip(utterances, extractor.read(utterances), strict=True):
        on_progress(1)
        if isinstance(frames, AudioError):
            failures.append(str(frames))
        elif len(frames):
            spoken.append(_Spoken(utterance, frames, normalize_text(utterance.text or "")))
    return spoken, failures


def _split(spoken: Sequence[_Spoken]) -> None:
    """One utterance in four of each speaker's is for test, and at least one where there are two."""
    by_speaker = defaultdict(list)
    for item in spoken:
        by_speaker[item.utterance.speaker].append(item)
    for items in by_speaker.values():
        for place, item in enumerate(items):
            item.is_test = place % min(_TEST_EVERY, len(items)) == 1


def _probe_frames(
    name: str,
    spoken: Sequence[_Spoken],
    labels: Sequence[Sequence[str | None]],
    skipped: dict[str, str],
    *,
    max_frames: int,
    seed: int,
) -> ProbeAccuracy | None:
    """Fits and tests on frames that have a label; `labels` holds one of each frame of each utterance, or none."""
    classes = sorted({label for of_item in labels for label in of_item if label is not None})
    if len(classes) < 2:
        skipped[name] = f"the manifest has {len(classes)} {name}s, and two are needed to tell them apart"
        return None
    ids = {label: place for place, label in enumerate(classes)}
    sets = []
    for is_test in (False, True):
        chosen = [(item, of_item) for item, of_item in zip(spoken, labels, strict=True) if item.is_test == is_test]
        targets = torch.tensor([ids.get(label, -1) for _, of_item in chosen for label in of_item], dtype=torch.long)
        places = (targets >= 0).nonzero()[:, 0]
        if len(places) == 0:
            skipped[name] = f"no frame with a {name} is left to {'test' if is_test else 'fit'} a probe on"
            return None
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        places = places[order[:max_frames]]
        sets.append((torch.cat([item.frames for item, _ in chosen])[places], targets[places]))
    (train, train_targets), (test, test_targets) = sets
    fitted = LinearProbe(len(classes)).fit(train, train_targets)
    guess = train_targets.bincount(minlength=len(classes)).argmax()
    chance = float((test_targets == guess).float().mean())
    return ProbeAccuracy(fitted.accuracy(test, test_targets), chance, len(classes), len(train), len(test))


def _label(
    spoken: Sequence[_Spoken],
    extractor: FeatureExtractor,
    aligner: Bundle | None,
    seed: int,
    skipped: dict[str, str],
) -> tuple[str, float | None, list[list[str | None]]]:
    """Aligns each text; returns the kind of labels, the error rate of the head that was fitted, labels of frames."""
    with_text = [item for item in spoken if item.text]
    if not any(item.is_test for item in with_text) or all(item.is_test for item in with_text):
        skipped["label"] = "the manifest has no `text` in utterances both to fit and to test on"
        return "character", None, []
    ctc_cer = None
    tokenizer: Any
    if aligner is None:
        tokenizer = CharTokenizer()
        tokenizer.fit(item.text for item in with_text)
        train = [item for item in with_text if not item.is_test]
        targets = [torch.tensor(tokenizer.encode(item.text)) for item in train]
        head = fit_ctc_head([item.frames for item in train], targets, tokenizer.vocab_size, seed=seed)
        logits = [head_logits(head, item.frames) for item in with_text]
        tested = zip(with_text, logits, strict=True)
        ctc_cer = _error_rate([(item.text, value) for item, value in tested if item.is_test], tokenizer)
        aligned = [
            align_text(value, item.text, tokenizer, extractor) for item, value in zip(with_text, logits, strict=True)
        ]
    else:
        tokenizer = aligner.tokenizer
        aligned = align_by(aligner, [item.utterance for item in with_text], device=extractor.device)
    for item, labels_of_item in zip(with_text, aligned, strict=True):
        item.labels = labels_of_item
    labels = [labels_of_frames(item.labels or (), extractor.times(len(item.frames))) for item in spoken]
    return "word" if isinstance(tokenizer, WordTokenizer) else "character", ctc_cer, labels


def _error_rate(scored: Sequence[tuple[str, Tensor]], tokenizer: Tokenizer) -> float:
    counts = []
    for text, logits in scored:
        (path,) = greedy_decode(logits[None], torch.tensor([len(logits)]), blank=tokenizer.blank_id)
        counts.append(count_errors(text, tokenizer.decode(path)))
    return error_rate(counts).value


def _segments(spoken: Sequence[_Spoken], extractor: FeatureExtractor, label_kind: str) -> list[Segment]:
    """Every word that was aligned and whose speaker is known; of an utterance of one word, all its frames."""
    segments = []
    for item in spoken:
        speaker = item.utterance.speaker
        if speaker is None:
            continue
        if item.text and " " not in item.text:
            segments.append(Segment(item.text, speaker, item.frames))
            continue
        times = extractor.times(len(item.frames))
        for word in words_of(item.labels or [], are_words=label_kind == "word"):
            frames = item.frames[(times >= word.start_seconds) & (times < word.end_seconds)]
            if len(frames):
                segments.append(Segment(word.symbol, speaker, frames))
    return segments


def _sample(spoken: Sequence[_Spoken], labels: Sequence[Sequence[str | None]], seed: int) -> FrameSample:
    frames = torch.cat([item.frames for item in spoken])
    speakers = [item.utterance.speaker for item in spoken for _ in range(len(item.frames))]
    flat = [label for of_item in labels for label in of_item] or [None] * len(frames)
    places = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))[:_MAP_FRAMES]
    chosen = places.tolist()
    return FrameSample(frames[places], [speakers[place] for place in chosen], [flat[place] for place in chosen])
