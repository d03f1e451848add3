"""A spoken-digit corpus made on the spot: many synthetic voices, speaker-disjoint splits, audible noise.

Enters: minutes per split, number of voices, a seed. Leaves: a folder with FLAC audio, one JSON-lines manifest
per split (`train`, `unlabelled`, `dev`, `test`) and `corpus.json`, which says how the corpus was made.

The speech comes from eSpeak NG (see `espeak`). The variants of its voices, which are timbres, are divided among
the splits: no timbre heard in training is in the test.
"""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speechkit.data.espeak import ACCENTS, Voice, speak, usable_variants

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "unlabelled", "dev", "test")
TEST_SHARE, DEV_SHARE = 0.2, 0.1  # of the variants, hence of the voices


def synthesize_corpus(
    out_dir: str | Path,
    *,
    num_voices: int = 72,
    num_labelled_voices: int | None = None,
    labelled_minutes: float = 2.0,
    unlabelled_minutes: float = 60.0,
    dev_minutes: float = 3.0,
    test_minutes: float = 8.0,
    digits_per_utterance: tuple[int, int] = (3, 8),
    snr_db: tuple[float, float] = (10.0, 30.0),
    sample_rate_hz: int = 16000,
    seed: int = 0,
    num_workers: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
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
        progress: show a progress bar per split; `None` means where stderr is a terminal.

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
    hidden = None if progress is None else not progress  # tqdm takes None for "unless it is a terminal"
    context = nullcontext() if num_workers == 1 else ProcessPoolExecutor(num_workers, get_context("spawn"))
    with context as pool:
        run = partial(pool.map, write_one, chunksize=8) if pool else partial(map, write_one)
        for split, minutes in zip(SPLITS, minutes_per_split, strict=True):
            with tqdm(total=int(60 * minutes), desc=split, unit="s", disable=hidden) as bar:
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
        rate_wpm, pitch, pitch_range = rng.uniform((105, 30, 30), (165, 70, 70))
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
    done_seconds = 0.0
    while done_seconds < seconds:
        num_utterances = int((seconds - done_seconds) / longest_seconds) + 1
        indices = range(len(rows), len(rows) + num_utterances)
        for row in run([split] * num_utterances, indices, [voices[index % len(voices)] for index in indices]):
            rows.append(row)
            done_seconds += row["duration"]
            bar.update(int(min(done_seconds, seconds)) - bar.n)  # the last utterance runs over
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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
