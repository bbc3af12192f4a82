"""Run directories of any kind: made ready, and executed. The app's thread and the command line both come through here.

Cheap to import: torch is loaded when a run begins.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lab.config import FineTuneConfig, PretrainConfig, RunConfig, changed
from lab.rundir import RunDir

if TYPE_CHECKING:
    from lab.training.contracts import Recorder
    from lab.training.run import Outcome

C = TypeVar("C", bound=RunConfig)


def ready(config: C) -> C:
    """The config of a new run as it is stored: what it names is there, and will be found from any folder.

    Said now, not by a run that fails.

    Raises:
        LabError: something that it names is not there, or cannot be trained on.
    """
    if isinstance(config, PretrainConfig):
        return _ready_to_pretrain(config)  # type: ignore[return-value]
    return _ready_to_finetune(config)  # type: ignore[return-value]


def _ready_to_pretrain(config: PretrainConfig) -> PretrainConfig:
    from lab.data.corpora import find_corpus
    from lab.data.text_data import prepare_text

    config = changed(config, corpus=find_corpus(config.data.corpus).name)
    prepare_text(config)
    return config


def _ready_to_finetune(config: FineTuneConfig) -> FineTuneConfig:
    from lab.finetuning import fast
    from lab.finetuning.base import find_base
    from lab.finetuning.datasets import prepare
    from lab.finetuning.rows import dataset_names, find_dataset

    if config.model.mode == "fast":
        fast.refuse()
    dataset = config.data.dataset
    if dataset not in dataset_names():
        dataset = str(Path(find_dataset(dataset)).resolve())
    base = find_base(config.model.model)
    config = changed(config, model=base.ref, dataset=dataset)
    prepare(config, base.tokenizer)
    return config


def execute(run: RunDir, recorder: "Recorder") -> "Outcome":
    """Train the run that `run` describes, whatever its kind.

    Raises:
        RunError: another process is training this run, or it is finished.
    """
    from lab.forecast.adviser import MemoryAdviser
    from lab.training import run as training

    if isinstance(run.config(), PretrainConfig):
        return training.train_run(run, recorder, None, MemoryAdviser())
    from lab.finetuning import fast
    from lab.finetuning.job import FineTuneJob
    from lab.forecast.finetune_config import FineTuneAdviser

    if run.config_as(FineTuneConfig).model.mode == "fast" and not fast.why_not():
        return fast.execute(run)

    return training.train_run(run, recorder, None, FineTuneAdviser(run), FineTuneJob)
