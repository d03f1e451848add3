"""`speechkit data import|check|shard|index|synth`."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    parser = commands.add_parser(
        name, help="import, check and synthesise corpora", description="Corpora and manifests."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    importer = actions.add_parser("import", help="another toolkit's corpus -> a manifest; exit status 1 on any failure")
    importer.add_argument("kind", choices=("kaldi", "csv", "librispeech"))
    importer.add_argument("source", metavar="SRC", help="data folder, table or corpus folder")
    importer.add_argument("out", metavar="OUT", help="the manifest to write (.jsonl)")
    importer.set_defaults(run=_import)
    check = actions.add_parser("check", help="find what would spoil a training; exit status 1 on any error")
    check.add_argument("manifests", nargs="+", metavar="MANIFEST")
    check.add_argument(
        "--config", metavar="RECIPE", help="also check against this recipe's tokenizer, rate and strides"
    )
    check.set_defaults(run=_check)
    shard = actions.add_parser(
        "shard",
        help="manifests -> an archive of a few large files; exit status 1 on any failure",
        description="Writes OUT/shar (lhotse's Shar format) and an index. An interrupted call goes on when made again.",
    )
    shard.add_argument("manifests", nargs="+", metavar="MANIFEST")
    shard.add_argument("out", metavar="OUT", help="folder")
    size = shard.add_mutually_exclusive_group()
    size.add_argument("--shard-hours", type=float, default=1.0, metavar="H", help="audio in a shard (%(default)s)")
    size.add_argument("--utterances", type=int, default=None, metavar="N", help="utterances in a shard")
    shard.add_argument("--format", choices=("flac", "wav", "opus"), default="flac", help="of the audio (%(default)s)")
    shard.add_argument("--sample-rate", type=int, default=None, metavar="HZ", help="resample (each file's own)")
    shard.add_argument("--workers", type=int, default=None, metavar="N", help="shards at a time (one per core)")
    shard.set_defaults(run=_shard)
    index = actions.add_parser("index", help="index OUT/shar, whoever wrote it, so that it can be trained on")
    index.add_argument("out", metavar="OUT", help="folder")
    index.set_defaults(run=_index)
    synth = actions.add_parser("synth", help="write a corpus of spoken digit strings by synthetic voices")
    synth.add_argument("out", metavar="OUT", help="folder")
    synth.add_argument("--voices", type=int, default=72, metavar="N", help="speakers in all (%(default)s)")
    synth.add_argument("--labelled-voices", type=int, default=None, metavar="N", help="of these, in train.jsonl (all)")
    for split, minutes in (("labelled", 2.0), ("unlabelled", 60.0), ("dev", 3.0), ("test", 8.0)):
        synth.add_argument(f"--{split}-minutes", type=float, default=minutes, metavar="M", help="(%(default)s)")
    synth.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    synth.add_argument("--workers", type=int, default=None, metavar="N", help="processes (all cores, at most 4)")
    synth.add_argument("--overwrite", action="store_true", help="replace a corpus that is there")
    synth.set_defaults(run=_synth)


def _import(arguments: argparse.Namespace) -> int:
    from speechkit.audio import AudioError
    from speechkit.data import Utterance, write_utterances
    from speechkit.data.importers import IMPORTERS

    source = Path(arguments.source)
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    num_failed = num_usable = 0

    def usable() -> Iterator[Utterance]:
        nonlocal num_failed, num_usable
        for item in IMPORTERS[arguments.kind](source):
            if isinstance(item, AudioError):
                print(f"failed: {item}", file=sys.stderr)
                num_failed += 1
            else:
                num_usable += 1
                yield item
        if num_failed and not num_usable:  # whatever manifest is there is better than an empty one
            raise ValueError(
                f"{source}: none of its {num_failed} recordings can be used; {arguments.out} is not written"
            )

    count = write_utterances(arguments.out, usable())
    print(f"{arguments.out}: {count} utterances")
    return 1 if num_failed else 0


def _check(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.check import check_manifests, describe_manifest
    from speechkit.data.manifest import read_utterances

    recipe = None
    if arguments.config is not None:
        from speechkit.pipelines.checking import recipe_requirements

        recipe = recipe_requirements(arguments.config, arguments.manifests[0])
    counts = {"error": 0, "note": 0}
    with tqdm(unit=" files", disable=not sys.stderr.isatty()) as bar:
        for problem in check_manifests(arguments.manifests, recipe=recipe, on_progress=bar.update):
            counts[problem.level] += 1
            print(f"{problem.level}: {problem.path}: {problem.reason}")
    for manifest in arguments.manifests:
        print(f"{manifest}: {describe_manifest(read_utterances(manifest))}")
    print(f"{counts['error']} errors, {counts['note']} notes")
    return 1 if counts["error"] else 0


def _shard(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.archive import read_description
    from speechkit.data.archive_writer import write_archive

    with tqdm(unit=" utterances", disable=not sys.stderr.isatty()) as bar:
        for failure in write_archive(
            arguments.manifests,
            arguments.out,
            shard_hours=arguments.shard_hours,
            shard_utterances=arguments.utterances,
            audio_format=arguments.format,
            sample_rate_hz=arguments.sample_rate,
            num_workers=(os.cpu_count() or 1) if arguments.workers is None else arguments.workers,
            on_progress=bar.update,
        ):
            tqdm.write(f"failed: {failure}", file=sys.stderr)
    description = read_description(arguments.out)
    num_failed = description["job"]["rows"] - description["utterances"]
    print(f"{arguments.out}: {_summary(description)}" + (f"; {num_failed} failed" if num_failed else ""))
    return 1 if num_failed else 0


def _index(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from speechkit.data.archive import write_index

    with tqdm(unit=" utterances", disable=not sys.stderr.isatty()) as bar:
        description = write_index(Path(arguments.out), on_progress=bar.update)
    print(f"{arguments.out}: {_summary(description)}")
    return 0


def _summary(description: dict[str, Any]) -> str:
    hours = description["seconds"] / 3600
    return f"{description['utterances']} utterances, {hours:.2f} h, in {description['shards']} shards"


def _synth(arguments: argparse.Namespace) -> int:
    from speechkit.data.synthetic import synthesize_corpus

    if Path(arguments.out).is_file():
        raise ValueError(f"{arguments.out}: is a file, and a corpus is a folder")
    facts = synthesize_corpus(
        arguments.out,
        num_voices=arguments.voices,
        num_labelled_voices=arguments.labelled_voices,
        labelled_minutes=arguments.labelled_minutes,
        unlabelled_minutes=arguments.unlabelled_minutes,
        dev_minutes=arguments.dev_minutes,
        test_minutes=arguments.test_minutes,
        seed=arguments.seed,
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    for split, numbers in facts["splits"].items():
        print(f"{split:<11} {numbers['utterances']:>5} utterances {numbers['minutes']:>6.1f} min", end=" ")
        print(f"{len(numbers['speakers'])} speakers")
    return 0
