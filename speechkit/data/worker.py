"""What a process that loads data does with errors and with signals."""

import os
import signal
import threading

from torch.utils.data import Dataset

from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.sampler import Draw


class ErrorsAsItems(Dataset[SpeechBatch | ValueError]):
    """Returns a `ValueError` instead of raising it: from a worker, torch would raise its whole traceback as text."""

    def __init__(self, dataset: SpeechDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draws: list[Draw]) -> SpeechBatch | ValueError:
        try:
            return self.dataset[draws]
        except ValueError as error:
            return error


def leave_signals_to_training(worker: int) -> None:
    """Makes this process survive the Ctrl-C or SIGTERM that a terminal or a cluster sends to all processes of a job.

    The training process ends behind its step, for which it may need one more batch, and ends its workers itself: they
    obey a SIGTERM of their parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has it not
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
