"""`speechkit evaluate BUNDLE MANIFEST`: error rates with their uncertainty."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechkit.cli.bundle_arguments import add_bundle_arguments
from speechkit.cli.decoding import add_decoding_arguments, load_recognizer

if TYPE_CHECKING:
    from speechkit.decoding import Confusions
    from speechkit.pipelines.evaluate import Evaluation, GroupScore

_MOST_CONFUSIONS = 10
_MOST_SPEAKERS = 20


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="word and character error rates on a manifest", description="Scores a model on a manifest."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip")
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("--json", metavar="FILE", help="write the figures here, as fractions")
    parser.add_argument(
        "--html", metavar="REPORT", help="write a page with every utterance's alignment; the worst are drawn and played"
    )
    parser.add_argument(
        "--worst", type=int, default=10, metavar="N", help="how many of the worst utterances to show (%(default)s)"
    )
    add_bundle_arguments(parser)
    add_decoding_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.manifest import expand_path
    from speechkit.pipelines.development_set import read_transcribed
    from speechkit.pipelines.evaluate import evaluate
    from speechkit.pipelines.report import write_report

    manifest = expand_path(arguments.manifest)
    read_transcribed(manifest)  # what is wrong is found before the work, not after it
    if arguments.json and arguments.json == arguments.html:
        raise ValueError(f"--json and --html must be two files, got {arguments.json} for both")
    for path in map(Path, filter(None, (arguments.json, arguments.html))):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ValueError(f"{path}: must be a file to write to, got a folder")
    recognizer = load_recognizer(arguments.bundle, arguments)
    with tqdm(unit=" s audio", disable=not sys.stderr.isatty()) as bar:
        result = evaluate(recognizer, manifest, num_worst=arguments.worst, on_progress=bar.update)
    _print(result)
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if arguments.html:
        write_report(result, recognizer, arguments.html, model=arguments.bundle, manifest=arguments.manifest)
    return 1 if result.failures else 0


def _print(result: "Evaluation") -> None:
    words, (low, high) = result.wer.counts, result.wer.interval
    print(f"WER {result.wer.value:.2%} (95 % interval {low:.2%} to {high:.2%}), CER {result.cer.value:.2%}")
    print(
        f"{words.length} words in {len(result.utterances)} utterances: {words.substitutions} substituted, "
        f"{words.deletions} deleted, {words.insertions} inserted"
    )
    if len(result.per_speaker) > 1:
        _print_groups("speaker", sorted(result.per_speaker, key=_word_error_rate, reverse=True))
    if len(result.per_length) > 1:
        _print_groups("length", result.per_length)
    if words.errors:
        _print_confusions(result.confusions)
    if any(item.word_counts.errors for item in result.worst):
        print("worst utterances:")
        for item in result.worst:
            if item.word_counts.errors:
                print(f"  {item.utterance.id}\n    said:  {item.reference}\n    heard: {item.hypothesis}")


def _word_error_rate(group: "GroupScore") -> float:
    return group.wer.value if group.wer else 0.0


def _print_groups(kind: str, groups: Sequence["GroupScore"]) -> None:
    width = max(len(kind), *(len(group.name) for group in groups))
    print(f"{kind:<{width}}  utterances  words     WER  95 % interval      CER")
    for group in groups[:_MOST_SPEAKERS]:
        line = f"{group.name:<{width}}  {group.num_utterances:>10}"
        if group.wer and group.cer:
            low, high = group.wer.interval
            line += f"  {group.wer.counts.length:>5}  {group.wer.value:6.1%}  {low:6.1%} {high:6.1%}"
            line += f"  {group.cer.value:6.1%}"
        print(line)
    if len(groups) > _MOST_SPEAKERS:
        print(f"and {len(groups) - _MOST_SPEAKERS} more")


def _print_confusions(confusions: "Confusions") -> None:
    kinds = {
        "substituted": [(" -> ".join(pair), count) for pair, count in confusions.substituted.most_common()],
        "deleted": confusions.deleted.most_common(),
        "inserted": confusions.inserted.most_common(),
    }
    for kind, counts in kinds.items():
        if counts:
            print(f"most {kind}: " + ", ".join(f"{word} {count}" for word, count in counts[:_MOST_CONFUSIONS]))
