"""Every error a person can cause, in one tree.

    LabError
    ├── ConfigError        a setting, or two settings together, cannot work (lists all mistakes)
    ├── DataError          a text, corpus or token file cannot be used
    │   └── DownloadError  it could not be fetched
    ├── ModelError         weights or a model cannot be used
    │   └── CheckpointError  a checkpoint is missing, damaged, or of another model
    ├── StoreError         the record (runs.duckdb, segments) cannot be read or written
    │   └── DatabaseBusy   another process owns runs.duckdb
    ├── RunError           a run is not in a state that allows what was asked
    └── TrainingError      training had to stop: a loss that is not finite, no memory

The message says what happened, which value, and what to do next, in one sentence. Anything that is not a
LabError is a bug of ours and keeps its traceback.
"""


class LabError(Exception):
    """Base of all errors that a person can act on; `str(error)` is the sentence to show."""


class ConfigError(LabError):
    """One or more settings cannot work. `mistakes` holds a sentence for each, so all show at once."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = list(mistakes)
        super().__init__(" ".join(self.mistakes))


class DataError(LabError):
    """A text, corpus or token file cannot be used."""


class DownloadError(DataError):
    """A file could not be fetched, or what came is not what was promised."""


class ModelError(LabError):
    """Weights or a model cannot be used."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class StoreError(LabError):
    """The record cannot be read or written."""


class DatabaseBusy(StoreError):
    """Another process owns runs.duckdb."""


class RunError(LabError):
    """A run is not in a state that allows what was asked."""


class TrainingError(LabError):
    """Training had to stop. The last good weights are kept."""
