"""Options of the search for texts, which several commands have."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechkit.recognizer import Recognizer


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """`--lm`, `--hotword` and the like."""
    group = parser.add_argument_group(
        "decoding", "Without these, a bundle decodes with its own language model, or greedily if it has none."
    )
    group.add_argument("--greedy", action="store_true", help="no search, even where the bundle has a language model")
    group.add_argument("--lm", metavar="FILE", help="n-gram language model over words: ARPA, plain or gzip")
    group.add_argument(
        "--lm-weight", type=float, metavar="W", help="factor of its log-probabilities (the bundle's, or 0.5)"
    )
    group.add_argument("--word-bonus", type=float, metavar="NATS", help="for each word (the bundle's, or 0)")
    group.add_argument(
        "--beam", type=int, metavar="N", help="texts that are kept from frame to frame (the bundle's, or 50)"
    )
    group.add_argument("--lexicon", metavar="FILE", help="a word a line: no other words are possible")
    group.add_argument(
        "--hotword", action="append", default=[], metavar="PHRASE", help="a word or phrase to expect; may be repeated"
    )
    group.add_argument("--hotword-boost", type=float, metavar="NATS", help="for each word of a hotword (10)")


def load_recognizer(bundle_path: str, arguments: argparse.Namespace) -> "Recognizer":
    """The bundle, decoding as the options say."""
    from speechkit.recognizer import Recognizer

    names = ("lm", "lm_weight", "word_bonus", "beam", "lexicon", "hotword")
    given = [name for name in names if getattr(arguments, name) not in (None, [])]
    if arguments.greedy and given:
        raise ValueError(f"`--greedy` must stand without --{given[0].replace('_', '-')}")
    if arguments.hotword_boost is not None and not arguments.hotword:
        raise ValueError(f"--hotword-boost needs --hotword, got {arguments.hotword_boost:g} for none")
    recognizer = Recognizer.load(
        bundle_path,
        device=arguments.device,
        use_language_model=not arguments.greedy and not given,
        trusted_packages=arguments.trust,
    )
    if given:
        recognizer.decoder = _search(bundle_path, recognizer, arguments)
    return recognizer


def _search(bundle_path: str, recognizer: "Recognizer", arguments: argparse.Namespace) -> Any:
    from speechkit.bundle_files import read_bundle_files, read_config, read_decoding

    try:
        from speechkit.decoding.arpa import read_arpa
        from speechkit.decoding.beam_search import BeamSearch
        from speechkit.decoding.lexicon import Lexicon
    except ImportError as error:
        raise ImportError(f"beam search needs pip install 'speechkit[train]' ({error})") from None

    files = read_bundle_files(bundle_path)
    language_model = None
    if arguments.lm is not None:
        language_model = read_arpa(arguments.lm)
    elif "lm.arpa" in files:
        language_model = read_arpa(Path(bundle_path) / "lm.arpa", files["lm.arpa"])
    if arguments.lm_weight is not None and language_model is None:
        raise ValueError(f"--lm-weight needs a language model, got none in {bundle_path}; give --lm FILE")
    settings = read_decoding(read_config(files, ("tokenizer",)))
    options: dict[str, Any] = {key: value for key, value in settings.items() if key != "temperature"}
    for key, value in (
        ("lm_weight", arguments.lm_weight),
        ("word_bonus", arguments.word_bonus),
        ("beam_size", arguments.beam),
        ("hotword_boost", arguments.hotword_boost),
    ):
        if value is not None:
            options[key] = value
    return BeamSearch(
        tokenizer=recognizer.tokenizer,
        language_model=language_model,
        lexicon=None if arguments.lexicon is None else Lexicon.read(arguments.lexicon),
        hotwords=arguments.hotword,
        **options,
    )
