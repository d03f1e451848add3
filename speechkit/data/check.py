"""Finds what would spoil a training before it costs any: file by file, each problem one line."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from speechkit.audio import AudioError, load_audio, read_audio_info
from speechkit.data.manifest import Utterance, read_utterances
from speechkit.text import Tokenizer

_DURATION_TOLERANCE_SECONDS = 0.05


@dataclass(frozen=True)
class Problem:
    """`level` is "error" (training would fail or learn rubbish) or "note" (handled, but worth knowing)."""

    level: str
    path: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """What a model asks of its data."""

    sample_rate_hz: int
    tokenizer: Tokenizer | None
    output_lengths: Callable[[torch.Tensor], torch.Tensor]  # samples -> frames T' of the logits


def check_manifests(
    manifests: Sequence[str], *, recipe: Recipe | None = None, on_progress: Callable[[], Any] = lambda: None
) -> Iterator[Problem]:
    """Checks every utterance of every manifest, then what they share.

    Yields problems: a missing, corrupt, truncated or empty file; a duration or offset that the file does not have;
    silence; with a recipe also another sample rate (a note), characters its tokenizer lacks, and texts too long for
    their audio (T' < U + repeats); last the audio that stands in two manifests, whole or in part.

    Raises:
        ValueError: a manifest that cannot be read at all.
    """
    everything = {manifest: read_utterances(manifest) for manifest in manifests}
    for manifest, utterances in everything.items():
        if not utterances:
            yield Problem("error", manifest, "the manifest holds no utterances")
        rows_of = Counter(utterance.audio_path for utterance in utterances)
        for utterance in utterances:
            yield from _check_utterance(utterance, recipe, is_segment=rows_of[utterance.audio_path] > 1)
            on_progress()
    yield from _shared_audio(everything)


def describe_manifest(utterances: Sequence[Utterance]) -> str:
    """How many utterances, hours, speakers and texts a manifest says that it has, in a line."""
    seconds = [item.duration_seconds for item in utterances if item.duration_seconds is not None]
    speakers = len({item.speaker for item in utterances if item.speaker is not None})
    parts = [f"{len(utterances)} utterances", f"{sum(item.text is not None for item in utterances)} with text"]
    if seconds:
        parts += [f"{sum(seconds) / 3600:.2f} h", f"{min(seconds):.1f} to {max(seconds):.1f} s"]
    if len(seconds) < len(utterances):
        parts.append(f"{len(utterances) - len(seconds)} without a duration")
    return ", ".join([*parts, f"{speakers} speakers" if speakers else "no speakers named"])


def _check_utterance(utterance: Utterance, recipe: Recipe | None, *, is_segment: bool) -> Iterator[Problem]:
    path = _place(utterance)
    try:
        info = read_audio_info(utterance.audio_path)
        samples = load_audio(
            utterance.audio_path,
            info.sample_rate_hz,
            offset_seconds=utterance.offset_seconds,
            duration_seconds=utterance.duration_seconds,
        )
    except AudioError as error:
        yield Problem("error", path, str(error).removeprefix(f"{utterance.audio_path}: "))
        return
    seconds = len(samples) / info.sample_rate_hz
    declared = utterance.duration_seconds
    whole = info.duration_seconds - utterance.offset_seconds
    is_segment = is_segment or utterance.offset_seconds > 0
    too_long = declared is not None and declared > whole + _DURATION_TOLERANCE_SECONDS
    too_short = declared is not None and declared < whole - _DURATION_TOLERANCE_SECONDS and not is_segment
    if too_long or too_short:
        yield Problem("error", path, f"declares {declared:.3f} s, holds {whole:.3f} s")
    if not samples.any():
        yield Problem("error", path, "is digital silence")
    if info.num_channels > 1:
        yield Problem("note", path, f"{info.num_channels} channels, mixed down")
    if recipe is not None:
        yield from _check_against_recipe(utterance, seconds, info.sample_rate_hz, recipe)


def _check_against_recipe(
    utterance: Utterance, seconds: float, sample_rate_hz: int, recipe: Recipe
) -> Iterator[Problem]:
    path = _place(utterance)
    if sample_rate_hz != recipe.sample_rate_hz:
        yield Problem("note", path, f"sample rate {sample_rate_hz} Hz, resampled to {recipe.sample_rate_hz} Hz")
    if recipe.tokenizer is None:
        return
    if utterance.text is None:
        yield Problem("error", path, "has no `text`")
        return
    try:
        labels = recipe.tokenizer.encode(utterance.text)
    except ValueError as error:
        yield Problem("error", path, str(error))
        return
    frames = int(recipe.output_lengths(torch.tensor([round(seconds * recipe.sample_rate_hz)])))
    repeats = sum(label == following for label, following in pairwise(labels))
    if frames < len(labels) + repeats:
        reason = f"T' = {frames} frames < U + repeats = {len(labels)} + {repeats}"
        yield Problem("error", path, f"too short for its text: {reason}")


def _shared_audio(manifests: dict[str, list[Utterance]]) -> Iterator[Problem]:
    """The same audio (by content) in two manifests: a test set that was trained on."""
    by_size: defaultdict[int, list[tuple[str, Utterance]]] = defaultdict(list)
    for manifest, utterances in manifests.items():
        for utterance in utterances:
            if utterance.audio_path.is_file():
                by_size[utterance.audio_path.stat().st_size].append((manifest, utterance))
    for group in by_size.values():
        if len({manifest for manifest, _ in group}) > 1:
            yield from _same_content(group)


def _same_content(group: Iterable[tuple[str, Utterance]]) -> Iterator[Problem]:
    """Parts of one recording that overlap, each named once, beside one of an earlier manifest."""
    digest = cache(_digest)  # a long recording stands in many segments
    by_content: defaultdict[str, list[tuple[str, Utterance]]] = defaultdict(list)
    for manifest, utterance in group:
        by_content[digest(utterance.audio_path)].append((manifest, utterance))
    for items in by_content.values():
        order = {manifest: place for place, manifest in enumerate(dict(items))}
        open_items: list[tuple[str, Utterance]] = []
        named: set[int] = set()
        for manifest, utterance in sorted(items, key=lambda item: item[1].offset_seconds):
            begins = utterance.offset_seconds + _DURATION_TOLERANCE_SECONDS
            open_items = [item for item in open_items if _end_seconds(item[1]) > begins]
            for other_manifest, other in open_items:
                pair = [(other_manifest, other), (manifest, utterance)]
                (first_manifest, first), (later_manifest, later) = sorted(pair, key=lambda item: order[item[0]])
                if first_manifest != later_manifest and id(later) not in named:
                    named.add(id(later))
                    reason = f"in {later_manifest}, is also in {first_manifest} ({first.id})"
                    yield Problem("error", _place(later), reason)
            open_items.append((manifest, utterance))


def _end_seconds(utterance: Utterance) -> float:
    return math.inf if utterance.duration_seconds is None else utterance.offset_seconds + utterance.duration_seconds


def _place(utterance: Utterance) -> str:
    """The file, and where in it."""
    offset = utterance.offset_seconds
    return f"{utterance.audio_path}@{offset:.10g}" if offset else str(utterance.audio_path)


def _digest(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            digest.update(content)
    return digest.hexdigest()
