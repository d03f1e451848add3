"""Bundles: saved and loaded whole, and whatever is damaged or hostile is refused in one line."""

import pickle
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

import speechkit
from speechkit.bundle import Bundle, load_bundle, save_bundle
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd, GlobalCMVN
from speechkit.heads import CTCHead
from speechkit.recognizer import Recognizer
from speechkit.text import CharTokenizer, SentencePieceTokenizer, Tokenizer

FORMS = ["folder", "model.zip"]


def small_bundle(tokenizer: Tokenizer | None = None, *, channels: int = 4) -> Bundle:
    torch.manual_seed(0)
    cmvn = GlobalCMVN(8)
    cmvn.fit([(torch.randn(2, 50, 8), torch.tensor([50, 40]))])
    front_end = FrontEnd(features=MFB(num_mels=8, sample_rate_hz=8000), cmvn=cmvn)
    encoder = ConvGRUEncoder(input_dim=8, channels=channels, hidden_size=4, num_layers=1, dropout=0.5)
    tokenizer = CharTokenizer("ab c") if tokenizer is None else tokenizer
    return Bundle(front_end, encoder, CTCHead(input_dim=4, vocab_size=tokenizer.vocab_size), tokenizer, "# Größe\n")


def logits(bundle: Bundle) -> Tensor:
    waveform = torch.sin(torch.arange(8000) * 0.1)[None]
    for module in (bundle.front_end, bundle.encoder, bundle.head):
        module.eval()
    with torch.inference_mode():
        return bundle.head(*bundle.encoder(*bundle.front_end(waveform, torch.tensor([8000]))))[0]


def refusal(path: Path) -> str:
    """Asserts one line that names the path, and that nothing but the bundle is in its folder."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=r".") as caught:
        load_bundle(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(small_bundle(), tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    save_bundle(small_bundle(), tmp_path / "archive" / "model.zip")
    return tmp_path / "archive" / "model.zip"


def edit_config(folder: Path, change: Callable[[dict], None]) -> Path:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def zip_folder(folder: Path, target: Path, *, prefix: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return target


@pytest.mark.parametrize("form", FORMS)
def test_loaded_equals_saved(tmp_path: Path, form: str) -> None:
    saved = small_bundle()
    save_bundle(saved, tmp_path / form)
    loaded = load_bundle(tmp_path / form)
    for name in ("front_end", "encoder", "head"):
        before, after = getattr(saved, name).state_dict(), getattr(loaded, name).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not getattr(loaded, name).training
    assert torch.equal(logits(loaded), logits(saved))
    assert (loaded.tokenizer.symbols, loaded.card) == (saved.tokenizer.symbols, saved.card)


@pytest.mark.parametrize("form", FORMS)
def test_saving_what_was_loaded_gives_the_same_files(folder: Path, tmp_path: Path, form: str) -> None:
    save_bundle(load_bundle(folder), tmp_path / "again" / form)
    save_bundle(load_bundle(tmp_path / "again" / form), tmp_path / "thrice")
    for file in folder.iterdir():
        assert (tmp_path / "thrice" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_sentencepiece_travels_along(tmp_path: Path, form: str) -> None:
    tokenizer = SentencePieceTokenizer(num_pieces=12)
    tokenizer.fit(["one two three", "two one", "three three two"] * 5)
    save_bundle(small_bundle(tokenizer), tmp_path / form)
    assert load_bundle(tmp_path / form).tokenizer.encode("three two") == tokenizer.encode("three two")


@pytest.mark.parametrize("form", FORMS)
def test_saving_replaces_what_was_there(tmp_path: Path, form: str) -> None:
    save_bundle(small_bundle(channels=8), tmp_path / form)
    save_bundle(small_bundle(channels=4), tmp_path / form)
    assert load_bundle(tmp_path / form).encoder.channels == 4
    assert not list(tmp_path.rglob("*.partial"))


def test_pretrained_encoder_has_neither_head_nor_tokenizer(tmp_path: Path) -> None:
    whole = small_bundle()
    save_bundle(Bundle(whole.front_end, whole.encoder), tmp_path / "encoder")
    loaded = load_bundle(tmp_path / "encoder")
    assert (loaded.head, loaded.tokenizer, loaded.card) == (None, None, "")
    with pytest.raises(ValueError, match="encoder: a pretrained encoder without a head"):
        Recognizer.load(tmp_path / "encoder")


@pytest.mark.parametrize("prefix", ["", "model/", "./"])
def test_archive_made_by_another_tool_is_read(folder: Path, tmp_path: Path, prefix: str) -> None:
    path = zip_folder(folder, tmp_path / "other.zip", prefix=prefix)
    assert torch.equal(logits(load_bundle(path)), logits(load_bundle(folder)))


def test_nothing_of_an_archive_is_written_to_disk(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(archive.parent.parent.rglob("*"))
    monkeypatch.chdir(archive.parent)
    load_bundle(archive)
    assert sorted(archive.parent.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["none", "none.zip"])
def test_missing_bundle(tmp_path: Path, name: str) -> None:
    assert "no such bundle" in refusal(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4" + bytes(100)])
def test_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.zip").write_bytes(content)
    assert "not a .zip archive" in refusal(tmp_path / "model.zip")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "lacks config.yaml and model.safetensors" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_cut_archive(archive: Path, share: float) -> None:
    archive.write_bytes(archive.read_bytes()[: round(share * archive.stat().st_size)])
    refusal(archive)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_content(folder: Path, archive: Path, compression: int) -> None:
    content = bytearray(zip_folder(folder, archive, compression=compression).read_bytes())
    place = content.find(b"model.safetensors") + 800
    content[place : place + 8] = bytes(255 - byte for byte in content[place : place + 8])
    archive.write_bytes(content)
    assert "damaged" in refusal(archive)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil.txt", "\\evil", "C:\\evil.txt", "C:/evil"]
)
def test_unsafe_path_in_an_archive(archive: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, "evil")
    assert "unsafe path" in refusal(archive)


def test_link_in_an_archive(archive: Path) -> None:
    link = zipfile.ZipInfo("card2.md")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    assert "holds a link" in refusal(archive)


def patch_central_directory(archive: Path, name: bytes, offset: int, value: int) -> None:
    """Overwrites four bytes of a member's entry in the directory at the archive's end (APPNOTE 4.3.12)."""
    content = bytearray(archive.read_bytes())
    entry = content.rfind(name) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + offset : entry + offset + 4] = struct.pack("<I", value)
    archive.write_bytes(content)


SIZE, FLAGS = 24, 8


@pytest.mark.parametrize("declared", [0, 1, 100])
def test_member_with_more_bytes_than_it_declares(folder: Path, archive: Path, declared: int) -> None:
    patch_central_directory(zip_folder(folder, archive), b"model.safetensors", SIZE, declared)
    refusal(archive)


def test_member_with_fewer_bytes_than_it_declares(folder: Path, archive: Path) -> None:
    patch_central_directory(zip_folder(folder, archive), b"model.safetensors", SIZE, 1_000_000)
    assert "'model.safetensors' declares 1000000 bytes, holds " in refusal(archive)


def test_member_that_declares_absurdly_much(folder: Path, archive: Path) -> None:
    patch_central_directory(zip_folder(folder, archive), b"config.yaml", SIZE, 0xFFFFFFFE)
    assert "declares 4294967294 bytes" in refusal(archive)


def test_encrypted_member(archive: Path) -> None:
    patch_central_directory(archive, b"config.yaml", FLAGS, 1)
    refusal(archive)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format(folder: Path, version: object) -> None:
    message = refusal(edit_config(folder, lambda config: config.update(format=version, speechkit="9.8.7")))
    assert f"bundle format {version!r} (written by speechkit 9.8.7)" in message
    assert speechkit.__version__ in message


@pytest.mark.parametrize("text", ["{", "- a\n", "", "format: 1\n", "!!python/object/apply:os.getcwd []", "a: b: c\n"])
def test_config_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    assert "config.yaml" in refusal(folder)


@pytest.mark.parametrize(
    "path", ["os.system", "torch.nn.Linear", "speechkit.text.CharTokenizer", "speechkit.bundle.Path"]
)
def test_encoder_of_another_kind(folder: Path, path: str) -> None:
    refusal(edit_config(folder, lambda config: config.update(encoder={"class_path": path, "init_args": {}})))


def test_tokenizer_of_another_kind(folder: Path) -> None:
    part = {"class_path": "speechkit.features.MFB"}
    assert "must be a Tokenizer" in refusal(edit_config(folder, lambda config: config.update(tokenizer=part)))


@pytest.mark.parametrize(
    "part", [3, "speechkit.features.MFB", [1], {"class_path": "speechkit.features.MFB", "init_args": 3}]
)
def test_part_that_is_no_description(folder: Path, part: object) -> None:
    refusal(edit_config(folder, lambda config: config.update(encoder=part)))


@pytest.mark.parametrize(("name", "value"), [("channels", 8), ("channels", -4), ("input_dim", "x"), ("nope", 1)])
def test_arguments_that_do_not_fit(folder: Path, name: str, value: object) -> None:
    refusal(edit_config(folder, lambda config: config["encoder"]["init_args"].update({name: value})))


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    save_bundle(small_bundle(channels=6), tmp_path / "other")
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    assert "does not fit `encoder`" in refusal(folder)


def test_missing_weight(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights.pop("head.projection.bias")
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    assert "head" in refusal(folder)


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save", [lambda x, path: torch.save(x, path), lambda x, path: path.write_bytes(pickle.dumps(x))]
)
def test_pickle_is_never_read(folder: Path, save: Callable[[object, Path], object]) -> None:
    save(Evil(folder / "evil"), folder / "model.safetensors")
    assert "model.safetensors is damaged" in refusal(folder)
    assert not (folder / "evil").exists()


def test_missing_sentencepiece_model(folder: Path) -> None:
    part = {"class_path": "speechkit.text.SentencePieceTokenizer"}
    assert "tokens.model" in refusal(edit_config(folder, lambda config: config.update(tokenizer=part)))


def test_trusted_packages_are_those_of_the_caller(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(head={"class_path": "torch.nn.Identity"}))
    assert "trusted package" in refusal(folder)
    with pytest.raises(ValueError, match="does not fit `head`"):
        load_bundle(folder, trusted_packages=("torch",))


@pytest.mark.parametrize("form", FORMS)
def test_language_model_and_settings_of_decoding(tmp_path: Path, form: str) -> None:
    from speechkit.decoding import BeamSearch, GreedySearch
    from speechkit.decoding.arpa import write_arpa
    from speechkit.decoding.kneser_ney import train_kneser_ney

    write_arpa(train_kneser_ney(["ab ab c", "c ab"] * 3, order=2), tmp_path / "lm.arpa.gz")
    bundle = small_bundle()
    bundle.language_model = (tmp_path / "lm.arpa.gz").read_bytes()
    bundle.decoding = {"temperature": 2.5, "lm_weight": 0.75, "word_bonus": -1, "beam_size": 7}
    save_bundle(bundle, tmp_path / form)
    recognizer = Recognizer.load(tmp_path / form)
    assert isinstance(recognizer.decoder, BeamSearch)
    assert recognizer.temperature == 2.5
    assert isinstance(Recognizer.load(tmp_path / form, use_language_model=False).decoder, GreedySearch)
    (transcript,) = recognizer.transcribe([torch.sin(torch.arange(8000) * 0.1)], num_best=3)
    scores = [item.score for item in transcript.segments[0].alternatives]
    assert 1 <= len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    assert transcript.segments[0].alternatives[0].text == transcript.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], "`decoding` must hold names and numbers, got list"),
        ({"lm_wieght": 1.0}, "`decoding` must hold temperature, lm_weight, word_bonus, beam_size, got 'lm_wieght'"),
        ({"temperature": "hot"}, "`decoding.temperature` must be a number, got 'hot'"),
    ],
)
def test_wrong_settings_of_decoding(folder: Path, settings: object, message: str) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "decoding": settings}))
    assert message in refusal(folder)


def test_a_broken_language_model_is_named(tmp_path: Path) -> None:
    bundle = small_bundle()
    bundle.language_model = b"\\data\\\nngram 1=2\n\n\\1-grams:\n-1 a\n"
    save_bundle(bundle, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"folder/lm\.arpa:\d+: "):
        Recognizer.load(tmp_path / "folder")


class LettersInAFile(CharTokenizer):
    """A tokenizer of one's own that keeps a file."""

    name = "tokens.txt"

    def files(self) -> dict[str, bytes]:
        return {self.name: b"ab c"}

    def load_files(self, files: Mapping[str, bytes]) -> None:
        self._set_symbols(files[self.name].decode())


@pytest.mark.parametrize("form", FORMS)
def test_a_tokenizer_of_ones_own_keeps_its_file(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = __name__.split(".")[0]
    save_bundle(small_bundle(LettersInAFile("ab c")), tmp_path / form)
    assert load_bundle(tmp_path / form, trusted_packages=(package,)).tokenizer.encode("cab") == [4, 1, 2]
    monkeypatch.setattr(LettersInAFile, "name", "tokens.other")
    with pytest.raises(ValueError, match=r"lacks 'tokens\.other' of the tokenizer"):
        load_bundle(tmp_path / form, trusted_packages=(package,))
    monkeypatch.setattr(LettersInAFile, "name", "letters.txt")
    with pytest.raises(ValueError, match=r"must be called tokens\.SUFFIX, got 'letters\.txt'"):
        save_bundle(small_bundle(LettersInAFile("ab c")), tmp_path / "other")


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("tokenizer", "symbols", ["a", "b"], "`head.vocab_size` must equal the labels of the tokenizer, 3, got 5"),
        ("front_end", "num_mels", 9, "`encoder.input_dim` must equal the features, 9, got 8"),
    ],
)
def test_parts_that_do_not_meet(folder: Path, part: str, name: str, value: object, message: str) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if part == "front_end":
        config[part]["init_args"] = {"features": config[part]["init_args"]["features"]}
        config[part]["init_args"]["features"]["init_args"][name] = value
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        kept = {key: value for key, value in weights.items() if not key.startswith("front_end")}
        safetensors.torch.save_file(kept, folder / "model.safetensors")
    else:
        config[part]["init_args"][name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert message in refusal(folder)


def test_an_encoder_is_loaded_without_what_the_head_needs(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["head"] = {"class_path": "somewhere.else.Head"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "trusted package" in refusal(folder)
    loaded = load_bundle(folder, encoder_only=True)
    assert loaded.head is None
    assert loaded.tokenizer is None


def test_writing_that_fails_leaves_the_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = Path.write_bytes

    def fail(path: Path, content: bytes) -> int:
        if "config" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        save_bundle(small_bundle(channels=6), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
