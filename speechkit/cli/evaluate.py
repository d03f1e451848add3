"""`speechkit evaluate BUNDLE MANIFEST`: error rates with their uncertainty."""

import argparse
import json
import sys
from pathlib import Path


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="word and character error rates on a manifest", description="Scores a model on a manifest."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .zip")
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("--json", metavar="FILE", help="write the figures here, as fractions")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="allow classes of this package in the bundle"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.manifest import expand_path
    from speechkit.pipelines.evaluate import evaluate
    from speechkit.recognizer import Recognizer

    recognizer = Recognizer.load(arguments.bundle, device=arguments.device, trusted_packages=arguments.trust)
    with tqdm(unit=" s audio", disable=not sys.stderr.isatty()) as bar:
        result = evaluate(recognizer, expand_path(arguments.manifest), on_progress=bar.update)
    words, (low, high) = result.wer.counts, result.wer.interval
    print(f"WER {result.wer.value:.2%} (95 % interval {low:.2%} to {high:.2%}), CER {result.cer.value:.2%}")
    print(
        f"{words.length} words in {result.num_utterances} utterances: {words.substitutions} substituted, "
        f"{words.deletions} deleted, {words.insertions} inserted"
    )
    if any(item.word_errors for item in result.worst):
        print("worst utterances:")
        for item in result.worst:
            if item.word_errors:
                print(f"  {item.path}\n    said:  {item.reference}\n    heard: {item.hypothesis}")
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(
            json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return 1 if result.failures else 0
