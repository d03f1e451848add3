"""Runs every command and every piece of Python in docs/, page after page, as a reader would."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from speechkit.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [
    "prepare-data", "pretrain", "probe", "fine-tune", "evaluate", "language-models", "decoding", "ctc", "features",
    "transcribe", "quantize", "firmware", "import", "many-gpus", "extend", "callbacks/README", "callbacks/training",
    "callbacks/labels", "callbacks/data", "callbacks/unlabelled",
]  # fmt: skip
BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def write_material(folder: Path, make_tone: Callable[..., Path]) -> None:
    """What the pages assume to be there: a corpus, other layouts, a book, the recipes small.yaml and lstm.yaml."""
    (folder / "scripts").symlink_to(ROOT / "scripts")
    small = (ROOT / "tests" / "pipelines" / "small.yaml").read_text().replace("$SPEECHKIT_TEST", "corpus")
    (folder / "small.yaml").write_text(small)
    (folder / "lstm.yaml").write_text((ROOT / "tests" / "docs" / "lstm.yaml").read_text())
    for name, count in (("train", 8), ("dev", 2), ("unlabelled", 4)):
        rows = []
        for place in range(count):
            seconds = 0.7 + 0.1 * place + 0.01 * len(name)
            audio = make_tone(
                f"corpus/{name}{place}.wav", hz=300 * (1 + place % 2), seconds=seconds, rate=8000, seed=place
            )
            row = {"audio_filepath": audio.name, "duration": round(seconds, 3), "text": "ab"[place % 2]}
            rows.append({key: row[key] for key in row if key != "text" or name != "unlabelled"})
        (folder / "corpus" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for place in range(2):
        make_tone(f"data/kaldi/{place}.wav", seed=place)
        libri = make_tone(f"data/librispeech/19/198/19-198-000{place}.wav", seed=place)
        soundfile.write(libri.with_suffix(".flac"), *soundfile.read(libri))
        libri.unlink()
    (folder / "data/kaldi/wav.scp").write_text("u0 0.wav\nu1 1.wav\n")
    (folder / "data/kaldi/text").write_text("u0 hello\nu1 world\n")
    (folder / "data/librispeech/19/198/19-198.trans.txt").write_text("19-198-0000 HELLO\n19-198-0001 WORLD\n")
    (folder / "books.txt").write_text("A book has many sentences.\nThis is another one.\n")
    write_checkpoint(folder / "checkpoint")
    (folder / "data/table.csv").write_text("path,sentence\nkaldi/0.wav,hello\n")


def write_checkpoint(folder: Path) -> None:
    """A small recogniser of Hugging Face."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    Wav2Vec2ForCTC(Wav2Vec2Config(**sizes, conv_dim=[16] * 7, vocab_size=4)).save_pretrained(folder)
    (folder / "vocab.json").write_text('{"<pad>": 0, "|": 1, "A": 2, "B": 3}')


def run_command(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return
    if program in ("make", "device/recognize"):
        if shutil.which("cc"):
            subprocess.run([program, *arguments], check=True)
        return
    assert program == "speechkit", f"the docs use a command that this test does not know: {line}"
    try:
        code = main(arguments)
    except SystemExit as finished:  # --keys prints and exits
        code = finished.code or 0
    assert code == 0, line


@pytest.mark.slow
def test_every_command_and_snippet_runs(
    tmp_path: Path, make_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_material(tmp_path, make_tone)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    count = 0
    for page in PAGES:
        names: dict[str, object] = {}  # a page's snippets follow each other
        for language, text in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
            if name := re.match(r"# (\w+\.(py|yaml))\n", text):
                (tmp_path / name[1]).write_text(text)
            elif language == "python":
                exec(compile(text, f"docs/{page}.md", "exec"), names)
            elif language == "sh":
                for line in text.splitlines():
                    run_command(line)
                    count += 1
    assert count >= 18


def test_every_page_is_run_or_names_no_command() -> None:
    pages = (path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md"))
    others = {page.as_posix() for page in pages} - set(PAGES)
    assert not [name for name in others if BLOCK.search((ROOT / "docs" / f"{name}.md").read_text())]
