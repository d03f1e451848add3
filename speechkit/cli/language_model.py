"""`speechkit lm train|mix|perplexity|tune`."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from speechkit.cli.bundle_arguments import add_bundle_arguments

if TYPE_CHECKING:
    from speechkit.decoding.ngram import Perplexity

_TEXT = "text file with a sentence a line, plain or gzip; - for standard input; or a manifest (.jsonl)"


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="train and measure n-gram language models", description="N-gram language models in ARPA files."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser(
        "train",
        help="text -> a language model, by modified Kneser-Ney smoothing",
        description="Text -> an ARPA file, by interpolated modified Kneser-Ney smoothing. The text is first put into "
        "the form that transcripts are scored in: lower case, no punctuation.",
    )
    train.add_argument("texts", nargs="+", metavar="TEXT", help=_TEXT)
    train.add_argument("-o", "--out", required=True, metavar="LM", help="the file to write, gzip where it ends in .gz")
    train.add_argument("--order", type=int, default=3, metavar="N", help="words in the longest n-grams (%(default)s)")
    train.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[0],
        metavar="COUNT",
        help="drop n-grams of order 1, 2, ... seen at most so often, as in 0 0 1; the last counts for the rest (0)",
    )
    train.add_argument("--unique", action="store_true", help="count a sentence once, however many speakers read it")
    train.add_argument("--eval", metavar="TEXT", help="also print the perplexity of this text")
    train.set_defaults(run=_train)
    mix = actions.add_parser(
        "mix",
        help="several language models -> one, in shares that suit a text",
        description="Language models -> one whose probabilities are the weighted mean of theirs: what is said here, "
        "and the language at large. The weights are given, or found on a development text.",
    )
    mix.add_argument("models", nargs="+", metavar="LM", help="ARPA files, plain or gzip")
    mix.add_argument("-o", "--out", required=True, metavar="LM", help="the file to write, gzip where it ends in .gz")
    shares = mix.add_mutually_exclusive_group(required=True)
    shares.add_argument("--weights", type=float, nargs="+", metavar="W", help="of each model, with sum 1")
    shares.add_argument("--dev", metavar="TEXT", help=f"weights that suit this text best: {_TEXT}")
    mix.set_defaults(run=_mix)
    perplexity = actions.add_parser("perplexity", help="how well a language model predicts a text")
    perplexity.add_argument("model", metavar="LM", help="ARPA file, plain or gzip")
    perplexity.add_argument("texts", nargs="+", metavar="TEXT", help=_TEXT)
    perplexity.set_defaults(run=_perplexity)
    tune = actions.add_parser(
        "tune",
        help="put a language model into a bundle, with the weights that suit a development set",
        description="Tries weights of the language model and bonuses for each word on a development set (never a test "
        "set), and writes the language model and the best of them into the bundle, unless it does better greedily.",
    )
    tune.add_argument("bundle", metavar="BUNDLE", help="folder or .zip")
    tune.add_argument("manifest", metavar="MANIFEST", help="recordings with `text`")
    tune.add_argument("--lm", metavar="LM", help="ARPA file, plain or gzip (the bundle's own, if it has one)")
    tune.add_argument("--beam", type=int, default=50, metavar="N", help="size of the beam (%(default)s)")
    tune.add_argument(
        "--rate",
        choices=("wer", "cer"),
        default="wer",
        help="what is to be least; cer where most words are wrong (%(default)s)",
    )
    tune.add_argument("--dry-run", action="store_true", help="say what was found and write nothing")
    add_bundle_arguments(tune)
    tune.set_defaults(run=_tune)


def _train(arguments: argparse.Namespace) -> int:
    from speechkit.decoding.arpa import write_arpa
    from speechkit.decoding.kneser_ney import count_ngrams, estimate_discounts, interpolate

    evaluated = _read_texts([arguments.eval]) if arguments.eval else []
    texts = _read_texts(arguments.texts)
    if arguments.unique:
        texts = list(dict.fromkeys(texts))
    words, counts = count_ngrams(texts, order=arguments.order)
    discounts = estimate_discounts(counts)
    model = interpolate(words, counts, discounts, prune=arguments.prune)
    write_arpa(model, arguments.out)
    for order, (level, values, kept) in enumerate(zip(counts, discounts, model.num_ngrams, strict=True), start=1):
        dropped = f" of {len(level.seen)}" if kept < len(level.seen) else ""
        print(f"{order}-grams: {kept}{dropped}, discounts {values.one:.3f} {values.two:.3f} {values.three_or_more:.3f}")
    print(f"training text: {_describe(model.perplexity(texts))}")
    if evaluated:
        print(f"{arguments.eval}: {_describe(model.perplexity(evaluated))}")
    return 0


def _mix(arguments: argparse.Namespace) -> int:
    from speechkit.decoding.arpa import read_arpa, write_arpa
    from speechkit.decoding.mixing import mix_ngrams, mixture_weights

    texts = _read_texts([arguments.dev]) if arguments.dev else []
    models = [read_arpa(path) for path in arguments.models]
    weights = arguments.weights or mixture_weights(models, texts)
    mixture = mix_ngrams(models, weights)
    write_arpa(mixture, arguments.out)
    for path, weight, model in zip(arguments.models, weights, models, strict=True):
        print(f"{weight:.3f} {path}" + (f": {_describe(model.perplexity(texts))}" if texts else ""))
    if texts:
        print(f"mixture: {_describe(mixture.perplexity(texts))}")
    return 0


def _perplexity(arguments: argparse.Namespace) -> int:
    from speechkit.decoding.arpa import read_arpa

    texts = _read_texts(arguments.texts)
    print(_describe(read_arpa(arguments.model).perplexity(texts)))
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from speechkit.bundle_files import read_bundle_files, update_decoding
    from speechkit.data.manifest import expand_path
    from speechkit.decoding.arpa import read_arpa
    from speechkit.pipelines.development_set import read_transcribed
    from speechkit.pipelines.tune_lm import Trial, tune_lm
    from speechkit.recognizer import Recognizer

    if arguments.lm is not None:
        content = Path(arguments.lm).read_bytes()
    else:
        content = read_bundle_files(arguments.bundle).get("lm.arpa", b"")
    if not content:
        raise ValueError(f"--lm must name a language model, since {arguments.bundle} holds none")
    model = read_arpa(arguments.lm or f"{arguments.bundle}/lm.arpa", content)

    def report(trial: Trial) -> None:
        print(
            f"weight {trial.lm_weight:g}, bonus {trial.word_bonus:g}: {arguments.rate.upper()} {trial.error_rate:.2%}",
            flush=True,
        )

    manifest = expand_path(arguments.manifest)
    read_transcribed(manifest)  # found wrong before the model is loaded, not after it
    recognizer = Recognizer.load(
        arguments.bundle, device=arguments.device, use_language_model=False, trusted_packages=arguments.trust
    )
    found = tune_lm(recognizer, model, manifest, beam_size=arguments.beam, rate=arguments.rate, on_trial=report)
    best = found.best
    print(
        f"best: weight {best.lm_weight:g}, bonus {best.word_bonus:g}: {arguments.rate.upper()} {best.error_rate:.2%}; "
        f"greedy {found.greedy:.2%}"
    )
    if best.error_rate > found.greedy:
        print(f"speechkit lm: nothing is written into {arguments.bundle}: it does better greedily", file=sys.stderr)
        return 1
    if not arguments.dry_run:
        weights = {"lm_weight": best.lm_weight, "word_bonus": best.word_bonus, "beam_size": arguments.beam}
        update_decoding(arguments.bundle, weights, language_model=content)
        print(f"written into {arguments.bundle}")
    return 0


def _describe(perplexity: "Perplexity") -> str:
    text = f"perplexity {perplexity.including_unknown:.2f} over {perplexity.num_words} words and ends of sentences"
    if perplexity.num_unknown:
        text += f", {perplexity.excluding_unknown:.2f} without the {perplexity.num_unknown} unknown words"
    return text


def _read_texts(paths: Iterable[str]) -> list[str]:
    """The sentences of some files, normalised, without empty ones."""
    from speechkit.text import normalize_text

    texts: list[str] = []
    for path in paths:
        before = len(texts)
        texts.extend(filter(None, map(normalize_text, _iterate_sentences(path))))
        if len(texts) == before:
            raise ValueError(f"{path}: must hold text, got not a word")
    return texts


def _iterate_sentences(path: str) -> Iterator[str]:
    from speechkit.data.manifest import MANIFESTS, iterate_utterances
    from speechkit.text.files import iterate_lines

    if path.endswith(MANIFESTS):
        yield from (utterance.text for utterance in iterate_utterances(path) if utterance.text)
        return
    for number, line in enumerate(iterate_lines(path), start=1):
        try:
            sentence = line.decode()
        except UnicodeDecodeError:
            sentence = "\0"
        if "\0" in sentence:
            raise ValueError(f"{path}:{number}: must be UTF-8 text, got {line[:40]!r}")
        yield sentence
