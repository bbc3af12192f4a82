"""`lab runs import` of anything: what a path holds is seen from its content."""

from pathlib import Path

from lab.errors import StoreError
from lab.store.archive import import_archive
from lab.store.archive_file import is_archive
from lab.store.folders import import_folder, segment_folder
from lab.store.foreign import EVENT_FILES, import_csv, import_tensorboard
from lab.store.importing import Imported


def import_path(path: Path, *, run_id: str | None = None, name: str = "") -> list[Imported]:
    """Import a run archive, a run's folder, a folder of segments, TensorBoard event files, or CSV.

    Args:
        run_id: the id it gets; for archives and the files of other programs.
        name: what to call a run of another program.

    Raises:
        StoreError: it is none of these, or damaged.
        RunError: the run is here already.
    """
    if not path.exists():
        raise StoreError(f"{path} does not exist.")
    if path.is_dir():
        if (path / "run.json").is_file() or segment_folder(path):
            return [import_folder(path)]
        if any(path.rglob(EVENT_FILES)):
            return import_tensorboard(path, run_id=run_id, name=name)
        raise StoreError(f"{path} holds no run: neither run.json, nor segments, nor TensorBoard event files.")
    if is_archive(path):
        return [import_archive(path, run_id=run_id)]
    if path.suffix.lower() in (".csv", ".txt"):
        return [import_csv(path, run_id=run_id, name=name)]
    if "tfevents" in path.name:
        return import_tensorboard(path, run_id=run_id, name=name)
    raise StoreError(f"{path} is neither a run archive (or it is cut off), nor CSV, nor a TensorBoard event file.")
