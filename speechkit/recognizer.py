"""The inference bundle: load, transcribe. The one way into a trained model."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from speechkit.audio import AudioError, AudioSegment
from speechkit.audio.voice_activity import FRAME_SECONDS
from speechkit.bundle_files import holds_integers, read_bundle_files
from speechkit.decoding import GreedySearch, Hypothesis, WordSpan, extend_to_pauses
from speechkit.integer_bundle import IntegerBundle, integer_bundle_from_files
from speechkit.integer_model import IntegerModel
from speechkit.text import Tokenizer
from speechkit.transcription import (
    Alternative,
    Input,
    Passage,
    PassageJoiner,
    RecognizerStream,
    RecordingEnd,
    Segment,
    Span,
    Transcript,
    Word,
    duration_seconds,
    read_ahead,
    read_segments,
)
from speechkit.transcription.reading import Event
from speechkit.transcription.search import Decoder, passage_words, search_passages

if TYPE_CHECKING:
    from speechkit.bundle import Bundle

Result = tuple[int, Passage | RecordingEnd | AudioError]

__all__ = ["Input", "Recognizer", "Segment", "Span", "Transcript", "Word"]

_IDLE_EVENTS = 32  # recordings without speech, one after the other, whose results do not wait for a full batch


class Model(Protocol):
    """From segments of audio to logits (T, V): `AcousticModel` in float, `IntegerModel` in integers.

    Attributes:
        sample_rate_hz: of the segments.
        step_seconds: from one frame of the logits to the next.
        first_seconds: when the first frame stands after the start of a segment.
    """

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def step_seconds(self) -> float: ...

    @property
    def first_seconds(self) -> float: ...

    def describe_latency(self) -> str: ...

    def segment_logits(self, segments: Sequence[AudioSegment]) -> Sequence[Any]: ...


class Recognizer:
    """Acoustic model, decoder, tokenizer. Importing it, and running a model in integers, imports no torch.

    Args:
        model: segments -> logits.
        tokenizer: label ids -> text.
        decoder: logits -> hypotheses; `GreedySearch` if none, or a `BeamSearch`.
        temperature: what logits are divided by before words get a confidence.
    """

    def __init__(
        self, *, model: Model, tokenizer: Tokenizer, decoder: Decoder | None = None, temperature: float = 1.0
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.model: Any = model
        self.tokenizer = tokenizer
        self.decoder: Any = decoder if decoder is not None else GreedySearch(blank=tokenizer.blank_id)
        self.temperature = temperature

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        use_language_model: bool = True,
        trusted_packages: Sequence[str] = (),
    ) -> "Recognizer":
        """Reads a bundle (folder or .zip), in float or int8.

        Args:
            path: of the bundle.
            device: where the modules run; an int8 bundle runs on the "cpu".
            use_language_model: where the bundle holds one, search with it and with the weights that were tuned for it.
            trusted_packages: packages besides speechkit whose classes may be built.

        Raises:
            ValueError: not a bundle, or one without a head (a pretrained encoder); one line.
            ImportError: what this kind of bundle needs is not installed.
        """
        files = read_bundle_files(path)
        if holds_integers(files):
            return cls._load_integer(path, files, device, use_language_model, trusted_packages)
        try:
            from speechkit.acoustic_model import AcousticModel
            from speechkit.bundle import bundle_from_files
        except ImportError as error:
            raise ImportError(f"{path}: a float bundle needs pip install 'speechkit[train]' ({error})") from None
        bundle = bundle_from_files(files, path, trusted_packages=trusted_packages)
        if bundle.head is None or bundle.tokenizer is None:
            raise ValueError(f"{path}: a pretrained encoder without a head; fine-tune it first (speechkit finetune)")
        return cls(
            model=AcousticModel(front_end=bundle.front_end, encoder=bundle.encoder, head=bundle.head, device=device),
            tokenizer=bundle.tokenizer,
            decoder=_tuned_search(bundle, path) if bundle.language_model and use_language_model else None,
            temperature=bundle.decoding.get("temperature", 1.0),
        )

    @classmethod
    def _load_integer(
        cls,
        path: str | os.PathLike[str],
        files: Mapping[str, bytes],
        device: str,
        use_language_model: bool,
        trusted_packages: Sequence[str],
    ) -> "Recognizer":
        if device != "cpu":
            raise ValueError(f"`device` must be 'cpu' for an int8 bundle, got {device!r}.")
        try:
            bundle = integer_bundle_from_files(files, trusted_packages=trusted_packages)
            model = IntegerModel(
                tables=bundle.tables,
                sample_rate_hz=bundle.sample_rate_hz,
                network=bundle.network,
                onnx=bundle.onnx,
                engine="onnxruntime" if find_spec("onnxruntime") else "reference",  # of the same codes, but slower
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(
            model=model,
            tokenizer=bundle.tokenizer,
            decoder=_tuned_search(bundle, path) if bundle.language_model and use_language_model else None,
            temperature=bundle.decoding.get("temperature", 1.0),
        )

    @classmethod
    def from_hf(cls, path_or_name: str | os.PathLike[str], *, device: str = "cpu") -> "Recognizer":
        """Takes a `Wav2Vec2ForCTC` or `HubertForCTC` of Hugging Face: a folder, or a name on its hub.

        Raises:
            ValueError: no such checkpoint, another model, or one without a CTC head; one line.
            ImportError: a name on the hub, and huggingface_hub is not installed.
        """
        from speechkit.acoustic_model import AcousticModel
        from speechkit.pretrained import import_hf

        bundle = import_hf(path_or_name)
        if bundle.head is None or bundle.tokenizer is None:
            raise ValueError(f"{path_or_name}: a pretrained encoder without a CTC head; import and fine-tune it first")
        model = AcousticModel(front_end=bundle.front_end, encoder=bundle.encoder, head=bundle.head, device=device)
        return cls(model=model, tokenizer=bundle.tokenizer)

    @property
    def sample_rate_hz(self) -> int:
        return self.model.sample_rate_hz

    def describe_latency(self) -> str:
        """What a frame of the model sees, in words; how far ahead is the least latency of a stream."""
        return self.model.describe_latency()

    def transcribe(
        self,
        inputs: Sequence[Input],
        *,
        sample_rate_hz: int | None = None,
        batch_seconds: float = 60.0,
        word_times: bool = True,
        num_best: int = 1,
        num_workers: int = 2,
    ) -> list[Transcript]:
        """Transcribes files and arrays of any length; results in the order of the inputs.

        Args:
            inputs: paths, spans of files, or samples (N,) in [-1, 1].
            sample_rate_hz: rate of the arrays; the model's own if none.
            batch_seconds: audio in one batch, padding included.
            word_times: whether to find out when each word is said, and how sure it is.
            num_best: texts of each segment, where the decoder is a beam search.
            num_workers: threads that read files ahead.

        Returns:
            One `Transcript` for each input. A file that cannot be read has `error` set; the others are done.
        """
        results = dict(
            self.transcribe_iter(
                inputs,
                sample_rate_hz=sample_rate_hz,
                batch_seconds=batch_seconds,
                word_times=word_times,
                num_best=num_best,
                num_workers=num_workers,
            )
        )
        return [results[place] for place in range(len(inputs))]

    def transcribe_iter(
        self,
        inputs: Sequence[Input],
        *,
        sample_rate_hz: int | None = None,
        batch_seconds: float = 60.0,
        word_times: bool = True,
        num_best: int = 1,
        num_workers: int = 2,
    ) -> Iterator[tuple[int, Transcript]]:
        """Like `transcribe`, but yields (place in the inputs, transcript) as they are done, shortest first.

        Files are read in threads ahead of the model, and decoded in another one behind it.
        """
        decoded: deque[tuple[list[Result], Future[list[Segment]]]] = deque()
        segments: dict[int, list[Segment]] = {}
        if isinstance(inputs, str | os.PathLike) or getattr(inputs, "ndim", None) == 1:
            alone = repr(inputs) if isinstance(inputs, str | os.PathLike) else "one array"
            raise ValueError(f"`inputs` must be a list of recordings, got {alone} alone.")
        rate = self.sample_rate_hz if sample_rate_hz is None else sample_rate_hz
        batches = self._results(inputs, rate, batch_seconds, num_workers)
        with ThreadPoolExecutor(1) as pool, closing(batches):
            for results in batches:
                passages = [item for _, item in results if isinstance(item, Passage)]
                decoded.append((results, pool.submit(self.decode, passages, word_times=word_times, num_best=num_best)))
                if len(decoded) > 1:
                    yield from _transcripts(*decoded.popleft(), segments)
            while decoded:
                yield from _transcripts(*decoded.popleft(), segments)

    def passages_iter(
        self, inputs: Sequence[Input], *, batch_seconds: float = 60.0, num_workers: int = 2
    ) -> Iterator[tuple[int, list[Passage] | AudioError]]:
        """What `decode` turns into text, for those who decode it many times: logits of the stretches of speech.

        Yields:
            (place in the inputs, its passages in order, or why it cannot be read).
        """
        open_passages: dict[int, list[Passage]] = {}
        with closing(self._results(inputs, self.sample_rate_hz, batch_seconds, num_workers)) as batches:
            for place, item in (result for results in batches for result in results):
                passages = open_passages.setdefault(place, [])
                if isinstance(item, Passage):
                    passages.append(item)
                else:
                    del open_passages[place]
                    yield place, item if isinstance(item, AudioError) else passages

    def _results(
        self, inputs: Sequence[Input], rate: int, batch_seconds: float, num_workers: int
    ) -> Generator[list[Result], None, None]:
        """Of a batch at a time, its passages in order, and the ends of recordings and errors between them."""
        if rate <= 0:
            raise ValueError(f"`sample_rate_hz` must be positive, got {rate}.")
        if not batch_seconds > 0:
            raise ValueError(f"`batch_seconds` must be positive, got {batch_seconds}.")
        if num_workers < 1:
            raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
        durations = []
        for place, item in enumerate(inputs):
            try:
                durations.append((place, duration_seconds(item, rate)))
            except AudioError as error:
                yield [(place, error)]
        durations.sort(key=lambda entry: entry[1])
        events = read_segments(inputs, durations, rate, self.sample_rate_hz, num_workers)
        joiners: dict[int, PassageJoiner] = {}
        with closing(read_ahead(events)) as ahead:
            for batch in _batches(ahead, batch_seconds * self.sample_rate_hz):
                yield list(self._passages(batch, joiners))

    def stream(
        self, *, sample_rate_hz: int | None = None, partial_seconds: float = 0.3, word_times: bool = True
    ) -> RecognizerStream:
        """Transcribes speech as it is said.

        Args:
            sample_rate_hz: of the samples that will come; the model's own if none.
            partial_seconds: a partial result after so much more of speech.
            word_times: whether final segments have words with their times.
        """
        return RecognizerStream(
            self,
            sample_rate_hz=self.sample_rate_hz if sample_rate_hz is None else sample_rate_hz,
            partial_seconds=partial_seconds,
            word_times=word_times,
        )

    def joiner(self) -> PassageJoiner:
        """For the segments of one recording."""
        return PassageJoiner(
            self.tokenizer,
            sample_rate_hz=self.sample_rate_hz,
            step_seconds=self.model.step_seconds,
            first_seconds=self.model.first_seconds,
        )

    def segment_logits(self, segments: Sequence[AudioSegment]) -> Sequence[Any]:
        """Logits (T, V) of each: tensors on the CPU, or arrays."""
        return self.model.segment_logits(segments)

    def decode(
        self,
        passages: Sequence[Passage],
        *,
        word_times: bool = True,
        num_best: int = 1,
        decoder: Decoder | None = None,
        temperature: float | None = None,
    ) -> list[Segment]:
        """Logits of stretches of speech -> text.

        Args:
            passages: in any order.
            word_times: whether to find out when each word is said, and how sure it is.
            num_best: alternatives of each; 1 gives none beside the text.
            decoder: the recogniser's own if none.
            temperature: of confidences; the recogniser's own if none.
        """
        found = search_passages(decoder or self.decoder, passages, num_best)
        return self.segments(passages, found, word_times=word_times, temperature=temperature, alternatives=num_best > 1)

    def segments(
        self,
        passages: Sequence[Passage],
        hypotheses: Sequence[Sequence[Hypothesis]],
        *,
        word_times: bool = True,
        temperature: float | None = None,
        alternatives: bool = False,
    ) -> list[Segment]:
        """What was found in passages (`search_passages`) -> text, words and their times; see `decode`."""
        if word_times:
            best = [row[0] for row in hypotheses]
            spans = passage_words(passages, best, self.tokenizer, temperature or self.temperature)
        else:
            spans = [[] for _ in passages]
        return [
            Segment(
                row[0].text(self.tokenizer),
                passage.start_seconds,
                passage.end_seconds,
                self._timed(passage, words),
                tuple(Alternative(item.text(self.tokenizer), item.score) for item in row if alternatives),
            )
            for passage, row, words in zip(passages, hypotheses, spans, strict=True)
        ]

    def _timed(self, passage: Passage, words: Sequence[WordSpan]) -> tuple[Word, ...]:
        """Frames -> seconds of the recording."""
        step = self.model.step_seconds
        first = passage.first_seconds - step / 2 - passage.levels_seconds
        times = extend_to_pauses(
            [
                (first + word.first * self.model.step_seconds, first + word.last * self.model.step_seconds)
                for word in words
            ],
            passage.levels,
            step=FRAME_SECONDS,
            start=passage.start_seconds - passage.levels_seconds,
            end=passage.end_seconds - passage.levels_seconds,
        )
        return tuple(
            Word(
                word.text,
                max(passage.start_seconds, start + passage.levels_seconds),
                min(passage.end_seconds, end + passage.levels_seconds),
                word.confidence,
            )
            for word, (start, end) in zip(words, times, strict=True)
        )

    def _passages(self, batch: Sequence[Event], joiners: dict[int, PassageJoiner]) -> Iterator[Result]:
        """Segments -> the passages that are complete with them; ends and errors in between stay where they are."""
        logits = iter(self.segment_logits([event for _, event in batch if isinstance(event, AudioSegment)]))
        for place, event in batch:
            joiner = joiners.setdefault(place, self.joiner())
            if isinstance(event, AudioSegment):
                yield from ((place, passage) for passage in joiner.push(event, next(logits)))
                continue
            del joiners[place]
            if isinstance(event, RecordingEnd):
                yield from ((place, passage) for passage in joiner.finish())
            yield place, event


def _tuned_search(bundle: "Bundle | IntegerBundle", path: str | os.PathLike[str]) -> Decoder:
    """The search for which the weights in a bundle were tuned."""
    try:
        from speechkit.decoding.arpa import read_arpa
        from speechkit.decoding.beam_search import BeamSearch
    except ImportError as error:
        advice = "a language model needs pip install 'speechkit[train]'; without it, decode greedily (--greedy)"
        raise ImportError(f"{path}: {advice} ({error})") from None
    assert bundle.tokenizer is not None
    options: dict[str, Any] = {name: value for name, value in bundle.decoding.items() if name != "temperature"}
    language_model = read_arpa(Path(path) / "lm.arpa", bundle.language_model)
    return BeamSearch(tokenizer=bundle.tokenizer, language_model=language_model, **options)


def _batches(events: Iterable[Event], most_samples: float) -> Iterator[list[Event]]:
    """Events in groups whose segments, padded, stay within a number of samples (or hold one alone)."""
    batch: list[Event] = []
    count = longest = idle = 0
    for event in events:
        idle += 1
        if isinstance(event[1], AudioSegment):
            size = len(event[1].samples)
            if count and (count + 1) * max(longest, size) > most_samples:
                yield batch
                batch, count, longest = [], 0, 0
            count, longest, idle = count + 1, max(longest, size), 0
        batch.append(event)
        if idle >= _IDLE_EVENTS:
            yield batch
            batch, count, longest, idle = [], 0, 0, 0
    if batch:
        yield batch


def _transcripts(
    results: Sequence[Result], decoded: Future[list[Segment]], open_segments: dict[int, list[Segment]]
) -> Iterator[tuple[int, Transcript]]:
    """The transcripts of the recordings that end in a batch."""
    segments = iter(decoded.result())
    for place, item in results:
        if isinstance(item, Passage):
            open_segments.setdefault(place, []).append(next(segments))
            continue
        done = tuple(open_segments.pop(place, ()))
        if isinstance(item, AudioError):
            yield place, Transcript(error=str(item))
        else:
            yield place, Transcript(done, item.duration_seconds)
