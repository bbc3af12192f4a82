"""A run's folder, or its bare segments, copied from another machine."""

import shutil
from pathlib import Path

import duckdb

from lab import paths
from lab.errors import LabError, RunError, StoreError
from lab.files import read_json, sha256_of
from lab.rundir import RunDir
from lab.store.importing import Imported, NewRun, put_in_place, take_in
from lab.store.segment_files import Segment, list_segments

_NOT_TAKEN = ("run.lock", "control.json")


def segment_folder(path: Path) -> Path | None:
    """Where the segments lie: in the folder itself, or below it in segments/. None: it holds none."""
    return next((folder for folder in (path, path / "segments") if list_segments(folder)), None)


def import_folder(path: Path) -> Imported:
    """Take in the folder of a run that was recorded elsewhere. It may be copied again later, with more segments:
    what is here already is not taken twice.

    Raises:
        StoreError: it holds no run.
        RunError: that run is being trained here.
    """
    segments = segment_folder(path)
    folder = path.parent if segments == path and (path.parent / "run.json").is_file() else path
    has_info = (folder / "run.json").is_file()
    if segments is None and not has_info:
        raise StoreError(f"{path} holds neither a run (run.json) nor segments.")
    run_id = _id_in_info(folder) if has_info else _id_in_rows(list_segments(segments)[0] if segments else None)
    if (paths.outputs() / run_id / "run.json").is_file():
        return _add_segments(RunDir(paths.outputs() / run_id), segments)
    with NewRun(run_id) as new:
        _copy(folder if has_info else None, segments, new.folder)
        if not has_info:
            new.write_info({"run_id": run_id, "name": run_id, "kind": "imported", "status": "finished"})
        return put_in_place(new)


def _add_segments(run: RunDir, segments: Path | None) -> Imported:
    if run.is_alive():
        raise RunError(f"Run {run.run_id} is being trained here, so it is not taken from elsewhere.")
    here = {segment.path.name for segment in list_segments(run.segments)}
    for segment in list_segments(segments) if segments else []:
        if segment.path.name not in here:
            _copy_file(segment.path, run.segments / segment.path.name)
    return Imported(run.run_id, run.path, 0, take_in(run), "The run was here already: only what is new was taken in.")


def _copy(folder: Path | None, segments: Path | None, target: Path) -> None:
    for source in sorted(folder.rglob("*")) if folder else []:
        name = source.relative_to(folder) if folder else source
        if source.is_file() and not source.is_symlink() and str(name) not in _NOT_TAKEN and name.parts[0] != "segments":
            _copy_file(source, target / name)
    for segment in list_segments(segments) if segments else []:
        _copy_file(segment.path, target / "segments" / segment.path.name)


def _copy_file(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise StoreError(f"{source} could not be copied to {target} ({error.strerror}).") from error


def _id_in_info(folder: Path) -> str:
    try:
        return str(read_json(folder / "run.json")["run_id"])
    except (LabError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / 'run.json'} does not tell the run's id: it may be damaged.") from error


def _id_in_rows(segment: Segment | None) -> str:
    """Bare segments say in each row whose it is."""
    assert segment is not None, "asked only where there are segments"
    if not sha256_of(segment.path).startswith(segment.hash):
        raise StoreError(f"{segment.path} is damaged: its content does not match the hash in its name.")
    try:
        with duckdb.connect() as connection:
            row = connection.execute("SELECT run_id FROM read_parquet(?) LIMIT 1", [str(segment.path)]).fetchone()
    except duckdb.Error as error:
        raise StoreError(f"{segment.path} cannot be read: {str(error).splitlines()[0]}") from error
    if row is None:
        raise StoreError(f"{segment.path} holds no rows.")
    return str(row[0])
