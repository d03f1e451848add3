"""`speechkit lm train|perplexity`."""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

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
    perplexity = actions.add_parser("perplexity", help="how well a language model predicts a text")
    perplexity.add_argument("model", metavar="LM", help="ARPA file, plain or gzip")
    perplexity.add_argument("texts", nargs="+", metavar="TEXT", help=_TEXT)
    perplexity.set_defaults(run=_perplexity)


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


def _perplexity(arguments: argparse.Namespace) -> int:
    from speechkit.decoding.arpa import read_arpa

    texts = _read_texts(arguments.texts)
    print(_describe(read_arpa(arguments.model).perplexity(texts)))
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
    from speechkit.data.manifest import iterate_utterances
    from speechkit.text.files import iterate_lines

    if path.endswith((".jsonl", ".jsonl.gz")):
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
