"""`lab runs …` beyond training: labels, bin, comparison, archives; also while an app has the record open."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cli import main
from lab.config import PRESETS, changed
from lab.rundir import RunDir, create_run
from lab.store import Database, SegmentRecorder, ingest_all, predictions, run_row


@pytest.fixture
def lab(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command with --json and returns (exit code, document)."""

    def run(*arguments: object) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def _finished(name: str, loss: float, **settings: Any) -> RunDir:
    run = create_run(changed(PRESETS["pocket"], **settings), name=name)
    recorder = SegmentRecorder(run)
    recorder.rows("metrics", [{"step": step, "name": "val/loss", "value": loss + 3 - step} for step in range(4)])
    recorder.rows("runs", [{"status": "finished"}])
    recorder.close()
    run.update_info(status="finished")
    return run


@pytest.fixture
def runs(lab_home: Path) -> list[RunDir]:
    return [
        _finished("slow", 2.0, learning_rate=1e-4, batch_size=4),
        _finished("quick", 1.5, learning_rate=1e-3, batch_size=8),
    ]


def test_runs_are_found_by_words_tags_settings_and_sorted_by_a_metric(lab: Any, runs: list[RunDir]) -> None:
    assert lab("runs", "tag", "quick", "good", "best one")[0] == 0

    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in lab("runs", "list", *arguments)[1]]

    assert names("--search", "QUI") == ["quick"]
    assert names("--tag", "best one") == ["quick"]
    assert names("--where", "learning_rate<0.0005") == ["slow"]
    assert names("--where", "batch-size=8", "--where", "corpus=shakespeare") == ["quick"]
    assert names("--sort", "val/loss", "--ascending") == ["quick", "slow"]
    code, document = lab("runs", "list", "--where", "nonsense")
    assert code == 1
    assert "no condition" in document["error"]


def test_a_run_is_renamed_noted_and_its_tags_taken_away(lab: Any, runs: list[RunDir]) -> None:
    lab("runs", "rename", "quick", "swift")
    lab("runs", "note", "swift", "my favourite")
    lab("runs", "tag", "swift", "a", "b")
    lab("runs", "tag", "swift", "a", "--remove")
    shown = lab("runs", "show", "swift")[1]
    assert (shown["name"], shown["note"], shown["tags"]) == ("swift", "my favourite", ["b"])


def test_a_deleted_run_leaves_the_list_comes_back_and_goes_for_good(lab: Any, runs: list[RunDir]) -> None:
    def listed(*arguments: str) -> int:
        return len(lab("runs", "list", *arguments)[1])

    assert lab("runs", "purge", "slow")[0] == 1, "only what is in the bin"
    lab("runs", "delete", "slow")
    assert (listed(), listed("--place", "deleted")) == (1, 1)
    lab("runs", "restore", "slow")
    assert listed() == 2
    lab("runs", "delete", "slow")
    code, document = lab("runs", "purge", "slow")
    assert code == 0
    assert document["bytes"] > 0
    assert not runs[0].path.exists()
    assert (listed(), listed("--place", "deleted")) == (1, 0)


def test_a_live_run_is_not_deleted(lab: Any, runs: list[RunDir]) -> None:
    with runs[0].lock():
        code, document = lab("runs", "delete", "slow")
    assert code == 1
    assert "stop it before" in document["error"]


def test_two_runs_are_compared_and_the_missing_ones_named(
    lab: Any, runs: list[RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    document = lab("runs", "compare", "slow", "quick")[1]
    assert [row["setting"] for row in document["settings"]] == ["learning_rate", "batch_size"]
    assert [(row["run"], row["verdict"]) for row in document["figures"]] == [
        ("quick", "best"),
        ("slow", "unknown: one seed each"),
    ]
    assert len(document["controlled"]) == 4
    assert main(["runs", "compare", "slow", "quick"]) == 0
    assert f"lab train --like {runs[0].run_id} --learning-rate 0.001" in capsys.readouterr().out
    assert lab("runs", "compare", "slow")[0] == 1


def test_a_run_is_exported_purged_and_imported_to_the_same_figures(
    lab: Any, runs: list[RunDir], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out") / "quick.labrun"
    before = lab("runs", "show", "quick")[1]
    assert lab("runs", "export", "quick", "--out", out)[1]["members"]["rows/metrics.parquet"]["rows"] == 4
    lab("runs", "delete", "quick")
    lab("runs", "purge", "quick")
    code, document = lab("runs", "import", out)
    assert code == 0
    assert document["runs"][0]["is_recorded"]
    assert lab("runs", "show", "quick")[1]["metrics"] == before["metrics"]
    code, document = lab("runs", "import", out)
    assert code == 1
    assert "here already" in document["error"]


def test_a_report_is_one_html_file(lab: Any, runs: list[RunDir], tmp_path: Path) -> None:
    assert lab("runs", "export", "quick", "--out", tmp_path / "quick.html")[0] == 0
    assert "<svg" in (tmp_path / "quick.html").read_text()
    with pytest.raises(SystemExit) as ended:
        main(["runs", "export", "quick", "--out", str(tmp_path / "x.html"), "--checkpoints"])
    assert ended.value.code == 2


def test_labels_and_imports_work_beside_an_open_app(runs: list[RunDir], tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("step,val/loss\n0,3\n1,2\n")

    def outside(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "lab", *arguments], capture_output=True, text=True)

    with Database.open() as app:
        ingest_all(app)
        assert "within a second" in outside("runs", "rename", "quick", "swift").stdout
        assert "within a second" in _beside(app, "runs", "import", str(tmp_path / "mine.csv"), "--as", "mine")
        ingest_all(app)
        assert run_row(app, runs[1].run_id)["name"] == "swift"
        assert run_row(app, "mine")["kind"] == "imported"
        with app.cursor() as cursor:
            assert cursor.execute("SELECT count(*) FROM metrics WHERE run_id = 'mine'").fetchone() == (2,)
        refused = outside("runs", "purge", runs[1].run_id)
        assert refused.returncode == 1
        assert "in use by process" in refused.stderr


def test_what_came_of_a_forecast_is_known_also_when_the_app_owns_the_record(lab_home: Path) -> None:
    tiny = "--corpus tiny --emb-dim 16 --n-layers 1 --n-heads 2 --context-length 16 --batch-size 2 --precision fp32"
    rest = "--threads 1 --max-steps 3 --eval-tokens 64 --sample-tokens 4 --name beside --json"
    with Database.open() as app:
        said = subprocess.run(
            [sys.executable, "-m", "lab", "train", *tiny.split(), *rest.split()], capture_output=True, text=True
        )
        run_id = json.loads(said.stdout)["run_id"]
        ingest_all(app)
        found = predictions(app, run_id).set_index("metric")
    assert set(found.index) == {"system/memory_gib", "system/step_memory_gib"}
    assert found["actual"].notna().all()
    step = found.loc["system/step_memory_gib"]
    assert step["actual"] == pytest.approx(step["predicted"], rel=0.01)


def _beside(app: Database, *arguments: str) -> str:
    """Standard output of a command that asks the owner for a copy while it runs."""
    from lab.store import serve_snapshots

    child = subprocess.Popen([sys.executable, "-m", "lab", *arguments], stdout=subprocess.PIPE, text=True)
    while child.poll() is None:
        serve_snapshots(app)
    return child.communicate()[0]
