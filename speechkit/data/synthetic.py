"""A spoken-digit corpus made on the spot: many synthetic voices, speaker-disjoint splits, audible noise.

Enters: minutes per split, number of voices, a seed. Leaves: a folder with FLAC audio, one JSON-lines manifest
per split (`train`, `unlabelled`, `dev`, `test`) and `corpus.json`, which says how the corpus was made.

The speech comes from the eSpeak NG library inside the `espeakng-loader` wheel, called through ctypes. A
voice is an English accent with one of eSpeak's "variants" (formants, pitch, breath: the timbre) and its own
speaking rate and pitch. Variants are divided among the splits: no timbre heard in training is in the test.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "unlabelled", "dev", "test")
ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp",
)  # fmt: skip
UNREPEATABLE_VARIANTS = ("Reed", "caleb")  # they draw from the C library's rand()
TWIN_VARIANTS = (  # their average spectrum is that of a variant that stays (Gene, Diogo, rob, ...)
    "Gene2", "Henrique", "RicishayMax3", "anikaRobot", "edward2", "fast", "klatt2", "klatt5", "klatt6",
    "miguel", "robert", "robosoft3", "steph2", "steph3",
)  # fmt: skip
TEST_SHARE, DEV_SHARE = 0.2, 0.1  # of the variants, hence of the voices
VOLUME_THAT_DOES_NOT_CLIP = 30  # of 100; three variants are far louder than the rest

# Constants of espeak-ng/speak_lib.h
_AUDIO_SYNCHRONOUS, _DONT_EXIT, _UTF8, _BY_CHARACTER = 2, 0x8000, 1, 1
_RATE_VOLUME_PITCH_RANGE = (1, 2, 3, 4)


@dataclass(frozen=True)
class Voice:
    """One speaker: accent, timbre, words per minute, and eSpeak's pitch and pitch range (0 to 99)."""

    accent: str
    variant: str
    rate_wpm: float
    pitch: float
    pitch_range: float

    @property
    def speaker(self) -> str:
        """Name of the speaker in manifests and folders, such as `en-us_f3`."""
        return f"{self.accent}_{self.variant}".replace(" ", "-")


def synthesize_corpus(
    out_dir: str | Path,
    *,
    num_voices: int = 72,
    num_labelled_voices: int | None = 8,
    labelled_minutes: float = 6.0,
    unlabelled_minutes: float = 60.0,
    dev_minutes: float = 3.0,
    test_minutes: float = 8.0,
    digits_per_utterance: tuple[int, int] = (3, 8),
    snr_db: tuple[float, float] = (10.0, 30.0),
    sample_rate_hz: int = 16000,
    seed: int = 0,
    num_workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict:
    """Write a corpus of spoken digit strings; the same arguments give the same bytes.

    Workers are spawned, so a script that calls this with more than one needs `if __name__ == "__main__":`.

    Args:
        out_dir: folder to fill with `audio/`, one manifest per split and `corpus.json`.
        num_voices: voices in all splits together; about 20 % are test voices and 10 % dev voices.
        num_labelled_voices: training voices that have transcripts; `None` means all of them.
        labelled_minutes: audio in `train.jsonl`. Every split runs over by less than one utterance.
        unlabelled_minutes: audio in `unlabelled.jsonl`, from all training voices, without `text`.
        dev_minutes: audio in `dev.jsonl`.
        test_minutes: audio in `test.jsonl`.
        digits_per_utterance: fewest and most digits in an utterance.
        snr_db: lowest and highest signal-to-noise ratio of an utterance, in dB.
        sample_rate_hz: sample rate of the written audio.
        seed: every random draw depends on (seed, split, index of the utterance) and on nothing else.
        num_workers: processes; `None` means one per CPU, at most 4. It does not change the output.
        overwrite: replace the corpus in `out_dir` if there is one.
        progress: show a progress bar per split.

    Returns:
        The content of `corpus.json`: per split its utterances, minutes and speakers, and the arguments.

    Raises:
        ValueError: an argument is out of range, or `out_dir` holds a manifest and `overwrite` is false.
        ImportError: `espeakng_loader` is not installed.
    """
    minutes_per_split = (labelled_minutes, unlabelled_minutes, dev_minutes, test_minutes)
    for name, minutes in zip(("labelled", *SPLITS[1:]), minutes_per_split, strict=True):
        _require(minutes >= 0, f"`{name}_minutes` must not be negative, got {minutes}")
    fewest, most = digits_per_utterance
    _require(1 <= fewest <= most, f"`digits_per_utterance` must rise from 1 or more, got {(fewest, most)}")
    _require(snr_db[0] <= snr_db[1], f"`snr_db` must be (lowest, highest), got {snr_db}")
    _require(sample_rate_hz >= 8000, f"`sample_rate_hz` must be at least 8000, got {sample_rate_hz}")
    _require(seed >= 0, f"`seed` must not be negative, got {seed}")
    if num_workers is None:
        num_workers = min(os.cpu_count() or 1, 4)
    _require(num_workers >= 1, f"`num_workers` must be at least 1, got {num_workers}")
    voices = plan_voices(num_voices, num_labelled_voices=num_labelled_voices, seed=seed)
    out_dir = Path(out_dir)
    _clear(out_dir, overwrite=overwrite)
    out_dir.mkdir(parents=True, exist_ok=True)

    write_one = partial(
        _write_utterance,
        out_dir=out_dir,
        seed=seed,
        digits_per_utterance=digits_per_utterance,
        snr_db=snr_db,
        sample_rate_hz=sample_rate_hz,
    )
    rows = {}
    context = nullcontext() if num_workers == 1 else ProcessPoolExecutor(num_workers, get_context("spawn"))
    with context as pool:
        run = partial(pool.map, write_one, chunksize=8) if pool else partial(map, write_one)
        for split, minutes in zip(SPLITS, minutes_per_split, strict=True):
            with tqdm(total=round(60 * minutes), desc=split, unit="s", disable=not progress) as bar:
                rows[split] = _write_split(run, split, voices[split], 60 * minutes, most, bar)
    corpus = {
        "splits": {split: _summary(rows[split]) for split in SPLITS},
        "num_voices": num_voices,
        "num_labelled_voices": num_labelled_voices,
        "minutes": dict(zip(SPLITS, minutes_per_split, strict=True)),
        "digits_per_utterance": list(digits_per_utterance),
        "snr_db": list(snr_db),
        "sample_rate_hz": sample_rate_hz,
        "seed": seed,
        "espeakng_loader": version("espeakng-loader"),  # another version may speak differently
    }
    # Manifests come last: a folder that has them has all the audio.
    for split in SPLITS:
        (out_dir / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[split]))
    (out_dir / "corpus.json").write_text(json.dumps(corpus, indent=2) + "\n")
    return corpus


def usable_variants() -> list[str]:
    """Timbres of the installed eSpeak NG, without the unrepeatable ones and the near copies of another."""
    folder = Path(_espeak().get_data_path()) / "voices" / "!v"
    return sorted({path.name for path in folder.iterdir()} - {*UNREPEATABLE_VARIANTS, *TWIN_VARIANTS})


def plan_voices(num_voices: int, *, num_labelled_voices: int | None, seed: int) -> dict[str, list[Voice]]:
    """Draw the voices of every split; neither a voice nor a variant is in two of train, dev and test.

    Each variant is used once, with a random accent, before any is used with a second accent.

    Returns:
        Voices by split; those of `train` are the first ones of `unlabelled`.

    Raises:
        ValueError: more voices are asked for than there are, or too few for three splits.
    """
    variants = usable_variants()
    most = len(ACCENTS) * len(variants)
    _require(3 <= num_voices <= most, f"`num_voices` must be between 3 and {most}, got {num_voices}")
    rng = _generator(seed, "voices")
    variants = [str(name) for name in rng.permutation(variants)][:num_voices]
    num_test = max(1, round(TEST_SHARE * len(variants)))
    num_dev = max(1, round(DEV_SHARE * len(variants)))
    labels = ["test"] * num_test + ["dev"] * num_dev
    labels = list(rng.permutation(labels + ["unlabelled"] * (len(variants) - len(labels))))
    accents = [rng.permutation(ACCENTS) for _ in variants]
    voices: dict[str, list[Voice]] = {split: [] for split in SPLITS}
    for index in range(num_voices):
        turn, place = divmod(index, len(variants))
        rate_wpm, pitch, pitch_range = rng.uniform((145, 30, 30), (205, 70, 70))
        voice = Voice(str(accents[place][turn]), variants[place], rate_wpm, pitch, pitch_range)
        voices[labels[place]].append(voice)
    num_training = len(voices["unlabelled"])
    if num_labelled_voices is None:
        num_labelled_voices = num_training
    _require(
        1 <= num_labelled_voices <= num_training,
        f"`num_labelled_voices` must be between 1 and the {num_training} training voices, got {num_labelled_voices}",
    )
    voices["train"] = voices["unlabelled"][:num_labelled_voices]
    return voices


def speak(phrases: Sequence[str], voice: Voice) -> tuple[list[np.ndarray], int]:
    """Speak phrases with eSpeak NG, without the silence around them.

    Part of the library's state (the phase of pitch flutter, echo, breath noise) outlives `espeak_Terminate`:
    the library is loaded afresh each time (1 ms), so that the samples depend on the arguments only.

    Args:
        phrases: texts, each spoken with its own intonation.
        voice: who speaks, at which rate and pitch.

    Returns:
        One float32 waveform (N,) per phrase within [-1, 1], and their sample rate in Hz.
    """
    loader = _espeak()
    library = ctypes.CDLL(loader.get_library_path())
    received: list[bytes] = []

    def receive(samples: int | None, num_samples: int, events: int | None) -> int:
        if samples and num_samples > 0:
            received.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(receive)
    data_path = os.fsencode(loader.get_data_path())
    sample_rate_hz = library.espeak_Initialize(_AUDIO_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
    assert sample_rate_hz > 0, "the eSpeak NG library refuses its own data folder"
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(callback)
    status = library.espeak_SetVoiceByName(f"{voice.accent}+{voice.variant}".encode())
    assert status == 0, f"eSpeak NG has no voice {voice}"
    values = (voice.rate_wpm, VOLUME_THAT_DOES_NOT_CLIP, voice.pitch, voice.pitch_range)
    for parameter, value in zip(_RATE_VOLUME_PITCH_RANGE, values, strict=True):
        library.espeak_SetParameter(parameter, round(value), 0)
    waveforms = []
    for phrase in phrases:
        received.clear()
        text = phrase.encode() + b"\0"
        library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        waveforms.append(_trim(np.frombuffer(b"".join(received), np.int16) / np.float32(32768)))
    library.espeak_Terminate()
    _unload(library)
    return waveforms, sample_rate_hz


def degrade(speech: np.ndarray, rng: np.random.Generator, *, snr_db: float, level_db: float) -> np.ndarray:
    """Tilt the spectrum with a one-pole filter, add white and pink noise, set the level.

    Args:
        speech: waveform (N,); exact zeros are taken for silence when its power is measured.
        rng: draws the filter and the noise.
        snr_db: power of the speech over that of the noise.
        level_db: RMS of the speech relative to full scale; lowered where the sum would clip.

    Returns:
        Waveform (N,) in [-1, 1].
    """
    from scipy.signal import lfilter

    is_speech = speech != 0
    pole = rng.uniform(-0.3, 0.5)
    tilted = lfilter([1.0], [1.0, -pole], speech)
    tilted /= np.sqrt(np.mean(tilted[is_speech] ** 2))
    white = rng.standard_normal(len(speech))
    spectrum = np.fft.rfft(rng.standard_normal(len(speech)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(speech))
    mix = rng.uniform()
    noise = mix * white + (1 - mix) * pink / np.std(pink)
    noisy = tilted + noise / np.std(noise) * 10 ** (-snr_db / 20)
    return noisy * min(10 ** (level_db / 20), 0.99 / np.max(np.abs(noisy)))


def _write_split(
    run: Callable[..., Iterable[dict]],
    split: str,
    voices: list[Voice],
    seconds: float,
    most_digits: int,
    bar: tqdm,
) -> list[dict]:
    """Write utterances, voices taking turns, in rounds that do not overshoot, until `seconds` are reached."""
    longest_seconds = 1 + most_digits  # of an utterance; a digit takes 0.3 s to 1 s
    rows: list[dict] = []
    missing_seconds = seconds
    while missing_seconds > 0:
        num_utterances = int(missing_seconds / longest_seconds) + 1
        indices = range(len(rows), len(rows) + num_utterances)
        for row in run([split] * num_utterances, indices, [voices[index % len(voices)] for index in indices]):
            rows.append(row)
            bar.update(row["duration"])
        missing_seconds = seconds - sum(row["duration"] for row in rows)
    return rows


def _write_utterance(
    split: str,
    index: int,
    voice: Voice,
    *,
    out_dir: Path,
    seed: int,
    digits_per_utterance: tuple[int, int],
    snr_db: tuple[float, float],
    sample_rate_hz: int,
) -> dict:
    """Draw, speak and write one utterance; return its manifest row."""
    import soundfile
    import soxr

    rng = _generator(seed, split, index)
    words = rng.choice(DIGITS, size=rng.integers(*digits_per_utterance, endpoint=True))
    marks = rng.choice([" ", ","], p=[6 / 7, 1 / 7], size=len(words))  # a comma is a pause
    phrases = "".join(word + mark for word, mark in zip(words, marks, strict=True)).strip(" ,").split(",")
    spoken, espeak_rate_hz = speak(
        phrases,
        replace(
            voice,
            rate_wpm=voice.rate_wpm * rng.uniform(0.92, 1.08),
            pitch=voice.pitch + rng.uniform(-6, 6),
            pitch_range=voice.pitch_range + rng.uniform(-10, 10),
        ),
    )
    silence = [np.zeros(round(sample_rate_hz * rng.uniform(0.1, 0.4)), np.float32) for _ in (0, *phrases)]
    # Each phrase is resampled by itself, so that the silence around it stays exactly zero.
    pieces = [silence[0]]
    for phrase, pause in zip(spoken, silence[1:], strict=True):
        pieces += [soxr.resample(phrase, espeak_rate_hz, sample_rate_hz), pause]
    speech = np.concatenate(pieces)
    waveform = degrade(speech, rng, snr_db=rng.uniform(*snr_db), level_db=rng.uniform(-32, -18))

    audio_filepath = Path("audio", voice.speaker, f"{split}-{index:05d}.flac")
    (out_dir / audio_filepath).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(out_dir / audio_filepath, waveform, sample_rate_hz, subtype="PCM_16")
    return {
        "audio_filepath": audio_filepath.as_posix(),
        "duration": round(len(waveform) / sample_rate_hz, 3),
        **({} if split == "unlabelled" else {"text": " ".join(words)}),
        "speaker": voice.speaker,
    }


def _trim(waveform: np.ndarray) -> np.ndarray:
    """Cut the ends that are 46 dB under the peak."""
    assert waveform.any(), "eSpeak NG returned silence"
    loud = np.flatnonzero(np.abs(waveform) > 0.005 * np.max(np.abs(waveform)))
    return waveform[loud[0] : loud[-1] + 1]


def _generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, ("voices", *SPLITS).index(stream), index])


def _summary(rows: list[dict]) -> dict:
    return {
        "utterances": len(rows),
        "minutes": round(sum(row["duration"] for row in rows) / 60, 3),
        "speakers": sorted({row["speaker"] for row in rows}),
    }


def _clear(out_dir: Path, *, overwrite: bool) -> None:
    """Refuse or remove an earlier corpus; manifests go first, so that none is left without its audio."""
    manifests = [path for split in SPLITS if (path := out_dir / f"{split}.jsonl").exists()]
    _require(
        overwrite or not manifests,
        f"`out_dir` must not hold a corpus unless `overwrite` is true, got {out_dir} with "
        f"{', '.join(path.name for path in manifests)}",
    )
    for path in manifests + sorted(out_dir.glob("audio/*/*-[0-9][0-9][0-9][0-9][0-9].flac")):
        path.unlink()


def _espeak():
    try:
        import espeakng_loader
    except ImportError as error:
        message = "a synthetic corpus needs espeakng_loader: pip install speechkit[demo]"
        raise ImportError(message) from error
    return espeakng_loader


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
