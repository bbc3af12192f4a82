"""Names, tags, notes, archive and bin: in the record and in the run's folder."""

import subprocess
import sys

import pytest

from lab import rundir
from lab.errors import RunError
from lab.rundir import RunDir, find_run
from lab.store import Database, RunSearch, adopt, find_runs, ingest_all, labels, run_row, sweep


@pytest.fixture
def run(database: Database, run_dir: RunDir) -> RunDir:
    run_dir.update_info(status="finished")
    adopt(database, run_dir)
    return run_dir


def test_a_new_name_is_found_in_record_and_folder_alike(database: Database, run: RunDir) -> None:
    labels.rename(database, run.run_id, "  a better  name ")
    assert run_row(database, run.run_id)["name"] == "a better name"
    assert find_run("a better name") == run
    with pytest.raises(RunError):
        find_run("a run")


def test_a_live_run_can_be_renamed_without_losing_what_its_trainer_writes(database: Database, run: RunDir) -> None:
    with run.lock():
        labels.rename(database, run.run_id, "renamed")
        run.update_info(status="stopped")
    assert (run.info()["name"], run.info()["status"]) == ("renamed", "stopped")


@pytest.mark.parametrize("name", ["", "  ", "a/b", "..", "x" * 101])
def test_a_name_that_cannot_be_one_is_refused(database: Database, run: RunDir, name: str) -> None:
    with pytest.raises(RunError, match="cannot be a run's name"):
        labels.rename(database, run.run_id, name)


def test_tags_notes_and_notebook_survive_a_record_that_is_made_anew(database: Database, run: RunDir) -> None:
    labels.set_tags(database, run.run_id, ["good", " long  run ", "good", ""])
    labels.set_note(database, run.run_id, "the best so far")
    labels.set_notebook(database, run.run_id, "# Why\n\nBecause.")
    labels.archive(database, run.run_id)
    database.purge_run(run.run_id)  # the rows alone, as if runs.duckdb were gone
    sweep(database)
    row = run_row(database, run.run_id)
    assert (row["tags"], row["note"], row["notebook"]) == (["good", "long run"], "the best so far", "# Why\n\nBecause.")
    assert row["archived_at"] is not None
    assert labels.notebook(database, run.run_id) == "# Why\n\nBecause."


def test_a_tag_with_a_comma_is_refused(database: Database, run: RunDir) -> None:
    with pytest.raises(RunError, match="comma"):
        labels.set_tags(database, run.run_id, ["a,b"])


def _listed(database: Database, place: str) -> list[str]:
    return list(find_runs(database, RunSearch(place=place))["run_id"])  # type: ignore[arg-type]


def test_archived_and_deleted_runs_are_in_their_own_places_and_come_back(database: Database, run: RunDir) -> None:
    labels.archive(database, run.run_id)
    assert (_listed(database, "current"), _listed(database, "archived")) == ([], [run.run_id])
    labels.unarchive(database, run.run_id)
    labels.delete(database, run.run_id)
    assert (_listed(database, "all"), _listed(database, "deleted")) == ([], [run.run_id])
    labels.restore(database, run.run_id)
    assert _listed(database, "current") == [run.run_id]


def test_purging_takes_folder_and_rows_of_a_deleted_run_only(database: Database, run: RunDir) -> None:
    with pytest.raises(RunError, match="not in the bin"):
        labels.purge(database, run.run_id)
    labels.delete(database, run.run_id)
    assert labels.purge(database, run.run_id) > 0
    assert not run.path.exists()
    assert sweep(database) == []
    with pytest.raises(RunError):
        run_row(database, run.run_id)


def test_a_live_run_is_not_deleted(database: Database, run: RunDir) -> None:
    with run.lock(), pytest.raises(RunError, match="stop it before"):
        labels.delete(database, run.run_id)
    database.update_run(run.run_id, status="queued")
    with pytest.raises(RunError, match="is queued"):
        labels.delete(database, run.run_id)


def test_an_unknown_run_cannot_be_labelled(database: Database) -> None:
    with pytest.raises(RunError, match="'nobody'"):
        labels.set_note(database, "nobody", "x")


def test_another_process_can_label_while_the_record_is_owned_here(database: Database, run: RunDir) -> None:
    code = (
        "import sys\nfrom lab.rundir import find_run\nfrom lab.store.labels import label_from_anywhere\n"
        "print(label_from_anywhere(find_run(sys.argv[1]), tags=['outside'], name='from outside'))"
    )
    answer = subprocess.run([sys.executable, "-c", code, run.run_id], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
    ingest_all(database)
    row = run_row(database, run.run_id)
    assert (row["tags"], row["name"], row["status"]) == (["outside"], "from outside", "finished")
    assert rundir.find_run("from outside") == run


def test_a_process_that_can_own_the_record_labels_at_once(lab_home: object, run_dir: RunDir) -> None:
    assert labels.label_from_anywhere(run_dir, note="done")
    with Database.open() as database:
        assert run_row(database, run_dir.run_id)["note"] == "done"
