"""Archives: a corpus of any size in a few large files, read in any order with little memory.

    OUT/shar/cuts.000000.jsonl.gz    lhotse cuts: texts, speakers, durations
    OUT/shar/recording.000000.tar    their audio, in the same order
    OUT/index.bin                    20 bytes an utterance: where its audio lies and how long it is
    OUT/archive.json                 how the archive was made, how much it holds

OUT/shar is lhotse's Shar format as it is, so lhotse reads it without this package. The index is what makes it
possible to draw utterances in any order, the same for any number of processes, without reading an archive through.
"""

import gzip
import json
import os
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechkit.audio import AudioError
from speechkit.data.manifest import expand_path

if TYPE_CHECKING:
    from lhotse import MonoCut

INDEX_DTYPE = np.dtype(
    [("shard", "<u4"), ("milliseconds", "<u4"), ("num_bytes", "<u4"), ("offset", "<u8")]
)  # milliseconds are rounded up; offset is that of the audio in its tar file
_ROWS_AT_ONCE = 1 << 16
_HEADER_BYTES = 512  # stands before every file in a tar


class ArchivedCuts(Sequence["MonoCut"]):
    """The cuts of one archive or several as one long list, each read from disk when it is asked for.

    A cut holds its encoded audio. Memory: 16 bytes a shard, and the texts of `cached_shards` shards.

    Args:
        folders: of the archives.
        cached_shards: how many shards' texts and places are kept, the latest ones.

    Raises:
        ValueError: a folder that is no archive, or an index that is unfinished or damaged.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], *, cached_shards: int = 80) -> None:
        self.folders = [expand_path(folder) for folder in folders]
        self.cached_shards = cached_shards
        numbers, first_rows, owners, count = [], [], [], 0
        for owner, folder in enumerate(self.folders):
            own_numbers, own_first_rows, own_count = _scan_shards(folder)
            numbers.append(own_numbers)
            first_rows.append(own_first_rows + count)
            owners.append(np.full(len(own_numbers), owner, dtype=np.int32))
            count += own_count
        self._owners, self._numbers = np.concatenate(owners), np.concatenate(numbers)
        self._first_rows = np.append(np.concatenate(first_rows), count)
        self._folder_first_rows = self._first_rows[np.searchsorted(self._owners, np.arange(len(self.folders)))]
        self._cache: OrderedDict[int, tuple[np.ndarray, list[bytes]]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @property
    def num_shards(self) -> int:
        return len(self._numbers)

    def places(self, shard: int) -> np.ndarray:
        """The index of one shard, of type `INDEX_DTYPE`; row i is the cut `first_row(shard) + i`."""
        owner, first = self._owners[shard], self._first_rows[shard]
        return np.fromfile(
            self.folders[owner] / "index.bin",
            INDEX_DTYPE,
            count=self._first_rows[shard + 1] - first,
            offset=INDEX_DTYPE.itemsize * int(first - self._folder_first_rows[owner]),
        )

    def first_row(self, shard: int) -> int:
        return int(self._first_rows[shard])

    def durations_milliseconds(self) -> Iterator[np.ndarray]:
        """Of all utterances in order, a piece of the index at a time."""
        for folder in self.folders:
            for rows in _iterate_index(folder):
                yield rows["milliseconds"]

    def texts(self) -> Iterator[str | None]:
        """Of all utterances in order, read from the archive."""
        for shard in range(self.num_shards):
            for line in self._read_lines(shard):
                yield json.loads(line)["supervisions"][0].get("text")

    def __getitem__(self, row: Any) -> Any:
        """The cut of a row, its audio in memory as in lhotse's own reading.

        Raises:
            AudioError: the archive is not the one that was indexed.
        """
        from lhotse import AudioSource
        from lhotse.serialization import deserialize_item

        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        places, lines = self._shard(shard)
        place = row - self.first_row(shard)
        cut: Any = deserialize_item(json.loads(lines[place]))
        tar = self._path(shard, "recording", ".tar")
        content = _read_member(tar, int(places["offset"][place]), int(places["num_bytes"][place]))
        cut.recording.sources = [AudioSource(type="memory", channels=cut.recording.channel_ids, source=content)]
        cut.id = cut.supervisions[0].id
        cut.custom = {**(cut.custom or {}), "manifest": str(tar)}
        return cut

    def _shard(self, shard: int) -> tuple[np.ndarray, list[bytes]]:
        if shard not in self._cache:
            places, lines = self.places(shard), self._read_lines(shard)
            if len(lines) != len(places):
                raise AudioError(_stale(self._path(shard, "cuts", ".jsonl.gz")))
            self._cache[shard] = (places, lines)
            if len(self._cache) > self.cached_shards:
                self._cache.popitem(last=False)
        self._cache.move_to_end(shard)
        return self._cache[shard]

    def _read_lines(self, shard: int) -> list[bytes]:
        path = self._path(shard, "cuts", ".jsonl.gz")
        try:
            with gzip.open(path) as file:
                return file.read().splitlines()
        except (OSError, EOFError, zlib.error) as error:
            raise AudioError(f"{path}: cannot be read ({error})") from None

    def _path(self, shard: int, field: str, suffix: str) -> Path:
        return self.folders[self._owners[shard]] / "shar" / f"{field}.{self._numbers[shard]:06d}{suffix}"


def read_description(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of an archive's archive.json.

    Raises:
        ValueError: no archive.
    """
    path = expand_path(folder) / "archive.json"
    if not path.is_file():
        raise ValueError(f"{folder}: is no archive, as `speechkit data shard` writes it, for it lacks archive.json")
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path}: must be JSON; make it anew by `speechkit data index {folder}`") from None
    return description


def write_index(folder: Path, *, on_progress: Callable[[int], Any] = lambda utterances: None) -> dict[str, Any]:
    """Indexes the shards below `folder`/shar, by this package or by lhotse, and notes in archive.json what they hold.

    Returns:
        The archive's description: `shards`, `utterances`, `seconds` and how it was made.

    Raises:
        ValueError: no shards, or a shard whose texts and audio do not belong together; the message names the file.
    """
    shards = sorted((folder / "shar").glob("cuts.*.jsonl.gz"))
    if not shards:
        raise ValueError(f"{folder}: must hold shar/cuts.000000.jsonl.gz and so on, as lhotse writes them")
    facts: dict[str, Any] = {"shards": len(shards), "utterances": 0, "seconds": 0.0}
    partial = folder / "index.partial"
    with partial.open("wb") as file:
        for cuts in shards:
            rows = _index_shard(cuts)
            file.write(rows.tobytes())
            facts["utterances"] += len(rows)
            facts["seconds"] += float(rows["milliseconds"].sum()) / 1000
            on_progress(len(rows))
    os.replace(partial, folder / "index.bin")
    description = {**(read_description(folder) if (folder / "archive.json").is_file() else {}), "format": 1, **facts}
    (folder / "archive.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return description


def _index_shard(cuts: Path) -> np.ndarray:
    number = cuts.name.split(".")[1]
    tar = cuts.with_name(f"recording.{number}.tar")
    rows = []
    try:
        with gzip.open(cuts) as lines, tarfile.open(tar, mode="r:") as archive:
            for line, member in zip(lines, _audio_members(archive), strict=True):
                cut = json.loads(line)
                if len(cut["supervisions"]) != 1:
                    raise ValueError(f"{cut['id']} must have one supervision, got {len(cut['supervisions'])}")
                if member.name.rsplit(".", 1)[0] != cut["id"]:
                    raise ValueError(f"{member.name} stands where the audio of {cut['id']} should")
                milliseconds = int(np.ceil(1000 * cut["duration"] - 1e-6))
                rows.append((int(number), milliseconds, member.size, member.offset_data))
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{tar}: does not belong to {cuts.name}, or one of them is damaged ({error})") from None
    return np.array(rows, dtype=INDEX_DTYPE)


def _audio_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """lhotse's pairs of audio and description -> the audio."""
    for place, member in enumerate(archive):
        if place % 2 == 0:
            yield member


def _scan_shards(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers of an archive's shards, the row that each starts with, and the number of rows."""
    facts, index = read_description(folder), folder / "index.bin"
    if "utterances" not in facts or not index.is_file():
        raise ValueError(f"{folder}: the archive is unfinished; call `speechkit data shard` again as before")
    if index.stat().st_size != facts["utterances"] * INDEX_DTYPE.itemsize or not facts["utterances"]:
        raise ValueError(f"{folder}: the index is damaged; make it anew by `speechkit data index {folder}`")
    numbers: list[np.ndarray] = []
    first_rows: list[np.ndarray] = []
    count, previous = 0, -1
    for rows in _iterate_index(folder):
        starts = np.flatnonzero(np.diff(rows["shard"].astype(np.int64), prepend=previous))
        numbers.append(rows["shard"][starts])
        first_rows.append(starts + count)
        count, previous = count + len(rows), int(rows["shard"][-1])
    return np.concatenate(numbers), np.concatenate(first_rows), count


def _iterate_index(folder: Path) -> Iterator[np.ndarray]:
    with (folder / "index.bin").open("rb") as file:
        while len(rows := np.fromfile(file, INDEX_DTYPE, count=_ROWS_AT_ONCE)):
            yield rows


def _read_member(tar: Path, offset: int, num_bytes: int) -> bytes:
    """The content of a file in a tar, once its header shows that it is where the index says."""
    try:
        with tar.open("rb") as file:
            file.seek(offset - _HEADER_BYTES)
            block = file.read(_HEADER_BYTES + num_bytes)
    except OSError as error:
        raise AudioError(f"{tar}: cannot be read ({error.strerror})") from None
    try:
        declared = tarfile.TarInfo.frombuf(block[:_HEADER_BYTES], "utf-8", "surrogateescape").size
    except tarfile.HeaderError:
        declared = -1
    if declared != num_bytes or len(block) != _HEADER_BYTES + num_bytes:
        raise AudioError(_stale(tar))
    return block[_HEADER_BYTES:]


def _stale(path: Path) -> str:
    return f"{path}: truncated, or changed since its index was made; see `speechkit data index`"
