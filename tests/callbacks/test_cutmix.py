"""CutMix: what is cut where, that the text follows, and that nothing changes where nothing is cut."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from speechkit.audio import PausePerturbation
from speechkit.callbacks import CutMix, Mixup, SpecAugment
from speechkit.callbacks.cutmix import Piece, assemble, choose_words, exchange
from speechkit.callbacks.word_borders import WordBorders, align_words, find_borders
from speechkit.encoders import ConvGRUEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import Recognition
from speechkit.text import CharTokenizer

TEXTS = ["ab ba", "b a bb", "aa b", "b b"]
LENGTHS = torch.tensor([16000, 12000, 9000, 14000])
BATCH = SimpleNamespace(ids=["u0", "u1", "u2", "u3"], texts=TEXTS)


def waveforms() -> Tensor:
    return 0.1 * torch.randn(4, 16000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def task() -> Recognition:
    torch.manual_seed(0)
    encoder = ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, strides=(2, 1), dropout=0.0)
    front_end = FrontEnd(features=MFB(num_mels=20), cmvn=UtteranceCMVN())
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=CharTokenizer(" ab"), head_dropout=0.0)


@pytest.fixture
def trainer() -> Any:
    return SimpleNamespace(callbacks=[], global_step=50, estimated_stepping_batches=100, current_epoch=0)


def step(trainer: Any, task: Recognition, callback: CutMix, *, epoch: int) -> tuple[Tensor, list[Any]]:
    """Losses of a training step, and with what the loss was called."""
    trainer.current_epoch = epoch
    callback.on_train_batch_start(trainer, task, BATCH, 0)
    logits, frames = task(waveforms(), LENGTHS)
    seen: list[Any] = []
    handle = task.loss.register_forward_pre_hook(lambda module, args: seen.extend(args))
    losses = task.loss(logits, *labels(task, TEXTS, frames))
    handle.remove()
    return losses, seen


def labels(task: Recognition, texts: list[str], frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = [torch.tensor(task.tokenizer.encode(text)) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), frames, torch.tensor([len(row) for row in rows])


def test_borders_are_half_way_between_words() -> None:
    # "ab b": labels a, b, space, b; the space belongs to neither word
    borders = find_borders([2, 5, 7, 12], [3, 6, 8, 14], [slice(0, 2), slice(3, 4)], 20)
    assert borders == pytest.approx([0.0, (6 + 12) / 2 / 20, 1.0])


def test_borders_of_spikes_and_of_what_cannot_be_aligned() -> None:
    tokenizer = CharTokenizer(" ab")
    logits = torch.zeros(3, 8, 4)
    logits[:, :, 0] = 5.0
    for frame, label in ((1, 2), (3, 1), (6, 3)):  # a, space, b
        logits[:, frame, label] = 20.0
    targets = torch.tensor([[2, 1, 3], [2, 1, 3], [0, 0, 0]])
    found = list(align_words(logits, targets, torch.tensor([8, 2, 8]), torch.tensor([3, 3, 0]), tokenizer, epoch=4))
    assert found == [WordBorders(4, ["a", "b"], [0.0, 0.5, 1.0]), None, None]


def test_words_are_chosen_evenly() -> None:
    assert choose_words(4, 0.5, 0.0) == slice(0, 2)
    assert choose_words(4, 0.5, 0.99) == slice(2, 4)
    assert choose_words(4, 0.1, 0.5) == slice(2, 2)
    assert choose_words(1, 1.0, 0.9) == slice(0, 1)


def test_exchange_takes_features_and_text_of_the_same_words() -> None:
    own = WordBorders(0, ["one", "two", "three"], [0.0, 0.25, 0.5, 1.0])
    other = WordBorders(0, ["four", "five"], [0.0, 0.6, 1.0])
    pieces, text = exchange(own, other, slice(1, 2), slice(1, 2), rows=(0, 3), frames=(40, 10))
    assert text == "one five three"
    assert pieces == [Piece(0, 0, 10), Piece(3, 6, 10), Piece(0, 20, 40)]


def test_assembled_rows_are_their_pieces_and_the_others_stay() -> None:
    features, lengths = torch.randn(3, 5, 2), torch.tensor([5, 3, 4])
    made_of = {0: [Piece(0, 0, 4), Piece(2, 1, 3), Piece(0, 4, 5)], 2: [Piece(2, 0, 1), Piece(0, 4, 4), Piece(2, 3, 4)]}
    result, counts = assemble(features, lengths, made_of)
    assert counts.tolist() == [7, 3, 2]
    torch.testing.assert_close(result[0], torch.cat([features[0, :4], features[2, 1:3], features[0, 4:5]]))
    torch.testing.assert_close(result[1, :5], features[1])
    torch.testing.assert_close(result[2, :2], features[2, [0, 3]])
    assert not result[2, 2:].any()
    assert not result[1, 5:].any()


def test_the_second_epoch_exchanges_words_found_in_the_first(trainer: Any, task: Recognition) -> None:
    callback = CutMix(1.0, 1.0, wait_fraction=0.5)
    callback.setup(trainer, task, "fit")
    plain = step(trainer, task, callback, epoch=3)[1]
    assert callback.state_dict()["borders"].keys() == set(BATCH.ids)
    torch.manual_seed(2)
    losses, seen = step(trainer, task, callback, epoch=4)
    texts = [task.tokenizer.decode(row[:count]) for row, count in zip(seen[1].tolist(), seen[3].tolist(), strict=True)]
    assert texts != TEXTS
    assert sorted(" ".join(texts).split()) == sorted(" ".join(TEXTS).split())
    assert seen[2].sum().item() == pytest.approx(plain[2].sum().item(), abs=4)  # frames are exchanged as words are
    assert seen[2].tolist() != plain[2].tolist()
    callback.teardown(trainer, task, "fit")
    torch.testing.assert_close(task.loss(*seen), losses)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in task.modules())


def test_exchanged_speech_is_read_as_its_new_text(trainer: Any, task: Recognition) -> None:
    """Against a batch that is made by hand from the same features."""
    callback = CutMix(1.0, 1.0)
    borders = ([0.0, 0.3, 1.0], [0.0, 0.3, 0.6, 1.0], [0.0, 0.4, 1.0], [0.0, 0.5, 1.0])
    found = {f"u{row}": (0, text.split(), borders[row]) for row, text in enumerate(TEXTS)}
    callback.load_state_dict({"borders": found})
    callback.setup(trainer, task, "fit")
    features, frames = task.front_end(waveforms(), LENGTHS)
    torch.manual_seed(2)
    losses, _ = step(trainer, task, callback, epoch=1)
    made_of = {}
    torch.manual_seed(2)
    pairs = torch.randperm(4).view(2, 2).tolist()
    torch.rand(2)  # which of the pairs; all
    texts = list(TEXTS)
    for (one, two), (share, *places) in zip(pairs, torch.rand(2, 3).tolist(), strict=True):
        own = {row: callback._borders[f"u{row}"] for row in (one, two)}
        words = {row: choose_words(len(own[row].words), share, at) for row, at in zip((one, two), places, strict=True)}
        for row, other in ((one, two), (two, one)):
            made_of[row], texts[row] = exchange(
                own[row],
                own[other],
                words[row],
                words[other],
                rows=(row, other),
                frames=(int(frames[row]), int(frames[other])),
            )
    callback.teardown(trainer, task, "fit")
    assert texts != TEXTS
    logits, counts = task.head(*task.encoder(*assemble(features, frames, made_of)))
    torch.testing.assert_close(losses, task.loss(logits, *labels(task, texts, counts)))


@pytest.mark.parametrize("options", [{"max_share": 0.0}, {"probability": 0.0}, {"wait_fraction": 1.0}])
def test_an_empty_segment_is_the_plain_loss(trainer: Any, task: Recognition, options: dict[str, float]) -> None:
    logits, frames = task(waveforms(), LENGTHS)
    plain = task.loss(logits, *labels(task, TEXTS, frames))
    callback = CutMix(**{"probability": 1.0, "max_share": 0.5, **options})
    callback.setup(trainer, task, "fit")
    torch.manual_seed(1)
    following = torch.rand(1)
    for epoch in range(2):
        torch.manual_seed(1)
        assert torch.equal(step(trainer, task, callback, epoch=epoch)[0], plain)
        assert torch.equal(torch.rand(1), following)  # nor is a random number drawn


def test_stretches_of_no_word_are_the_plain_loss(trainer: Any, task: Recognition) -> None:
    logits, frames = task(waveforms(), LENGTHS)
    plain = task.loss(logits, *labels(task, TEXTS, frames))
    callback = CutMix(1.0, 0.1)  # a tenth of three words is none
    callback.setup(trainer, task, "fit")
    for epoch in range(2):
        assert torch.equal(step(trainer, task, callback, epoch=epoch)[0], plain)


def test_alignments_are_renewed_when_they_are_old_and_survive_a_checkpoint(trainer: Any, task: Recognition) -> None:
    callback = CutMix(1.0, 0.1, refresh_epochs=3)
    callback.setup(trainer, task, "fit")
    found_in = []
    for epoch in range(5):
        step(trainer, task, callback, epoch=epoch)
        found_in.append(callback.state_dict()["borders"]["u1"][0])
        resumed = CutMix(1.0, 0.1, refresh_epochs=3)
        resumed.load_state_dict(callback.state_dict())
        assert resumed.state_dict() == callback.state_dict()
    assert found_in == [0, 0, 0, 3, 3]


def test_utterances_that_are_mixed_are_not_aligned(trainer: Any, task: Recognition) -> None:
    """A mixture has another voice in it, and the shorter one of a pair goes on in zeros."""
    callbacks = [CutMix(1.0, 0.5), Mixup(1.0, weight=0.5)]
    trainer.callbacks = callbacks
    for callback in callbacks:
        callback.setup(trainer, task, "fit")
    callbacks[1].on_train_batch_start(trainer, task, BATCH, 0)
    step(trainer, task, callbacks[0], epoch=0)
    assert callbacks[0].state_dict()["borders"] == {}


def test_what_cannot_work_is_refused_at_the_start(trainer: Any, task: Recognition) -> None:
    with pytest.raises(ValueError, match=r"`max_share` must lie in \[0, 1\], got 1.5"):
        CutMix(max_share=1.5)
    with pytest.raises(ValueError, match="`refresh_epochs` must be positive"):
        CutMix(refresh_epochs=0)
    callback = CutMix()
    trainer.callbacks = [Mixup(), callback]
    with pytest.raises(ValueError, match="CutMix before Mixup"):
        callback.setup(trainer, task, "fit")
    trainer.callbacks = [callback]
    trainer.datamodule = SimpleNamespace(joining=object(), perturbations=[])
    with pytest.raises(ValueError, match="`joining`"):
        callback.setup(trainer, task, "fit")
    trainer.callbacks = [callback, SpecAugment(policy="LD")]
    with pytest.raises(ValueError, match="`max_warp_frames` of SpecAugment must be 0 with CutMix"):
        callback.setup(trainer, task, "fit")
    trainer.callbacks = [callback]
    trainer.datamodule = SimpleNamespace(joining=None, perturbations=[PausePerturbation()])
    with pytest.raises(ValueError, match="PausePerturbation"):
        callback.setup(trainer, task, "fit")
