"""`lab` from end to end: a three-step run, and everything that can be asked of it."""

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.cli import main
from lab.config import PRESETS, differences
from lab.rundir import RunDir, all_runs, find_run
from lab.store import Database, ingest, queries

QUICK = "--corpus tiny --max-steps 3 --eval-every 2 --sample-tokens 5 --eval-tokens 200 --threads 1 --precision fp32"

Lab = Callable[..., SimpleNamespace]


def run_lab(*line: str) -> SimpleNamespace:
    """One command: its exit code, what it printed where, and the document if it printed one."""
    words = [word for part in line for word in (part.split() if len(line) == 1 else [part])]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as leaving:  # argparse leaves this way
            code = leaving.code
    document = json.loads(out.getvalue()) if "--json" in words and out.getvalue() else None
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), document=document)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A LAB_HOME that the tests of this file share."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def first(home: Path) -> SimpleNamespace:
    """A finished run of three steps."""
    return run_lab(f"train --preset pocket {QUICK} --name first --json")


def test_train_prints_one_document_with_what_was_promised(first):
    assert first.code == 0, first.err
    assert {"run_id", "status", "steps", "val_loss", "path"} == set(first.document)
    assert (first.document["status"], first.document["steps"]) == ("finished", 3)
    assert 2 < first.document["val_loss"] < 4.2
    assert Path(first.document["path"]).name == first.document["run_id"]


def test_progress_goes_to_standard_error(first):
    assert "step 2 of 3: train" in first.err
    assert "the final checkpoint is written" in first.err


def test_a_finished_run_left_its_rows_in_the_record_and_no_segments(first):
    run = find_run("first")
    assert not list(run.segments.glob("*.parquet"))
    rows = run_lab("sql", "SELECT step FROM metrics WHERE name = 'train/loss' ORDER BY step", "--json").document
    assert rows == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_flags_beat_like_and_like_beats_the_preset(first):
    second = run_lab(f"train --preset nano --like first --max-steps 1 --seed 7 --json {QUICK[QUICK.index('--thr') :]}")
    assert second.code == 0, second.err
    like, made = find_run("first").config(), find_run(second.document["run_id"]).config()
    assert differences(like, made) == {"max_steps": (3, 1), "seed": (1337, 7)}


def test_a_preset_is_what_is_not_typed(first):
    config = find_run("first").config()
    typed = {"corpus", "max_steps", "eval_every", "sample_tokens", "eval_tokens", "threads", "precision"}
    decided = {"vocab_size", "device"}
    assert set(differences(PRESETS["pocket"], config)) <= typed | decided


def test_a_path_to_a_text_is_stored_whole(home, monkeypatch, tmp_path):
    (tmp_path / "mine.txt").write_text("All work and no play makes a dull text. " * 40)
    monkeypatch.chdir(tmp_path)
    ended = run_lab(f"train --preset pocket {QUICK} --corpus mine.txt --max-steps 1 --json")
    assert ended.code == 0, ended.err
    assert RunDir(Path(ended.document["path"])).config().data.corpus == str(tmp_path / "mine.txt")


def test_a_text_that_is_too_short_is_refused_before_a_run_is_made(home, tmp_path):
    (tmp_path / "short.txt").write_text("Too short to learn from.")
    before = all_runs()
    ended = run_lab(f"train --preset pocket --json --corpus {tmp_path / 'short.txt'}")
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == f"lab: {ended.document['error']}"
    assert "64" in ended.document["error"], "the sentence shows the arithmetic"
    assert all_runs() == before


def test_all_mistakes_of_a_config_are_shown_together(home):
    ended = run_lab("train --batch-size 0 --emb-dim 130 --n-heads 4 --learning-rate fast")
    assert ended.code == 1
    assert len(re.findall(r"^  - ", ended.err, flags=re.M)) == 3
    assert "batch_size is 0, but" in ended.err
    assert "learning_rate is 'fast', but" in ended.err


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fly",
        "train --no-such-flag",
        "train --preset huge",
        "train --max-step 5",
        "resume",
        "runs list --status happy",
        "sql --format parquet SHOW",
        "generate --run first",
    ],
)
def test_wrong_usage_is_2(home, line):
    ended = run_lab(line)
    assert ended.code == 2
    assert "usage: lab" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("runs show nobody", "There is no run 'nobody'"),
        ("train --like nobody", "There is no run 'nobody'"),
        ("train --corpus nowhere", "There is no corpus 'nowhere'"),
        ("fork first --step 99", "no checkpoint at step 99"),
        ("fork first --emb-dim 64 --step 3", "cannot change emb_dim"),
        ("resume first", "is finished: there is nothing to go on with"),
        ("pause first", "is finished and no process trains it: there is nothing to pause"),
        ("stop first", "nothing to stop"),
        ("save first", "nothing to save"),
        ("corpora stats nowhere", "There is no corpus 'nowhere'"),
        ("corpora download nowhere", "There is no corpus 'nowhere'"),
        ("corpora add nowhere.txt", "nowhere.txt cannot be read"),
        ("generate --run first --prompt Ω", "'Ω'"),
        ("generate --run first --prompt a --top-p 3 --temperature -1", "temperature is -1.0"),
        ("sql SELEC", "SELEC"),
    ],
)
def test_a_clear_error_is_1_and_one_sentence(first, line, sentence):
    ended = run_lab(line)
    assert ended.code == 1
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_with_json_an_error_is_a_document_too(home):
    ended = run_lab("runs show nobody --json")
    assert ended.code == 1
    assert ended.document == {"error": "There is no run 'nobody'; `lab runs list` shows the runs there are."}


def test_a_run_that_fails_says_so_in_its_document(home):
    """A learning rate of 10 without warm-up or clipping soon makes a loss that is no number."""
    line = (
        f"train --preset nano {QUICK} --emb-dim 32 --n-layers 1 --context-length 32 --max-steps 400 --sample-tokens 0"
    )
    ended = run_lab(
        f"{line} --learning-rate 10 --warmup-steps 0 --grad-clip 0 --weight-decay 10 --tokenizer char --json"
    )
    assert ended.code == 1
    assert ended.document["status"] == "failed"
    assert ended.document["error"] in ended.err
    assert find_run(ended.document["run_id"]).info()["status"] == "failed"


def test_a_fork_starts_from_its_parents_checkpoint(first):
    ended = run_lab("fork first --step 3 --max-steps 5 --learning-rate 1e-4 --name child --json")
    assert ended.code == 0, ended.err
    assert ended.document["steps"] == 5
    child = find_run("child")
    assert (child.info()["parent_run_id"], child.info()["parent_step"]) == (first.document["run_id"], 3)
    assert differences(find_run("first").config(), child.config()) == {
        "max_steps": (3, 5),
        "learning_rate": (PRESETS["pocket"].optim.learning_rate, 1e-4),
    }


def test_a_fork_may_take_another_runs_settings(first):
    run_lab("fork first --step 3 --max-steps 5 --learning-rate 1e-4 --name kin --json")
    ended = run_lab("fork first --step 3 --like kin --seed 3 --name cousin --json")
    assert ended.code == 0, ended.err
    assert find_run("cousin").info()["parent_run_id"] == first.document["run_id"]
    assert differences(find_run("kin").config(), find_run("cousin").config()) == {"seed": (1337, 3)}


def test_generate_writes_the_same_text_from_the_same_seed(first):
    line = ("generate", "--run", "first", "--prompt", "The ", "--max-new-tokens", "12", "--json")
    one, two, other = run_lab(*line, "--seed", "1"), run_lab(*line, "--seed", "1"), run_lab(*line, "--seed", "2")
    assert one.document == two.document
    assert one.document["text"] != other.document["text"]
    assert (one.document["run_id"], one.document["step"], one.document["prompt"]) == (
        first.document["run_id"],
        3,
        "The ",
    )
    assert len(one.document["tokens"]) == 12 == len(one.document["text"])
    assert all(0 <= token["probability"] <= 1 for token in one.document["tokens"])


def test_generate_for_people_is_the_prompt_and_what_follows(first):
    line = ("generate", "--run", "first", "--prompt", "The ", "--max-new-tokens", "12", "--step", "3", "--seed", "1")
    assert run_lab(*line).out == "The " + run_lab(*line, "--json").document["text"] + "\n"


def test_runs_list_shows_newest_first_and_can_be_narrowed(first):
    rows = run_lab("runs list --json").document
    assert [row["created_at"] for row in rows] == sorted((row["created_at"] for row in rows), reverse=True)
    (row,) = [row for row in rows if row["name"] == "first"]
    assert (row["status"], row["step"], row["total_steps"], row["device"]) == ("finished", 3, 3, "cpu")
    assert row["val_loss"] == first.document["val_loss"]
    assert len(run_lab("runs list --limit 1 --json").document) == 1
    assert run_lab("runs list --status paused --json").document == []
    assert "first" in run_lab("runs list").out


def test_runs_show_holds_everything_about_a_run(first):
    shown = run_lab("runs show first --json").document
    assert shown["run_id"] == first.document["run_id"]
    assert shown["config"]["train"]["max_steps"] == 3
    assert shown["metrics"]["val/loss"] == {"value": first.document["val_loss"], "step": 3}
    assert [(row["step"], row["kind"]) for row in shown["checkpoints"]] == [(3, "final")]
    assert {row["step"] for row in shown["samples"]} == {0, 2, 3}
    assert "finished" in [row["kind"] for row in shown["events"]]
    text = run_lab("runs show first").out
    assert all(heading in text for heading in ("Metrics", "Checkpoints", "Events", "What it wrote at step 3"))


def test_sql_answers_in_four_formats(first, tmp_path):
    query = "SELECT step, kind FROM checkpoints WHERE run_id = '" + first.document["run_id"] + "'"
    assert run_lab("sql", query).out.splitlines()[-1].split() == ["3", "final"]
    assert run_lab("sql", query, "--format", "csv").out == "step,kind\n3,final\n"
    assert json.loads(run_lab("sql", query, "--format", "json").out) == [{"step": 3, "kind": "final"}]
    for ending in ("parquet", "csv", "json"):
        file = tmp_path / f"answer.{ending}"
        assert run_lab("sql", query, "--out", str(file), "--json").document == {"out": str(file), "rows": 1}
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "answer.parquet").to_pylist() == [{"step": 3, "kind": "final"}]
    assert (tmp_path / "answer.csv").read_text() == "step,kind\n3,final\n"


def test_sql_cannot_change_the_record(first):
    assert run_lab("sql", "DELETE FROM runs").code == 1
    assert run_lab("runs list --json").document


def test_status_of_a_quiet_lab_says_what_to_do(first):
    ended = run_lab("status")
    assert ended.out.startswith("Nothing is running.")
    assert run_lab("status --json").document == {"runs": []}


def test_corpora_are_listed_added_and_counted(home, tmp_path):
    listed = {corpus["name"]: corpus for corpus in run_lab("corpora list --json").document}
    assert {"shakespeare", "alice", "tiny", "verdict"} <= set(listed)
    assert all(corpus["source"] and corpus["licence"] for corpus in listed.values())
    (tmp_path / "My Diary.txt").write_text("Dear diary, today I trained a model.\n" * 9)
    added = run_lab("corpora", "add", str(tmp_path / "My Diary.txt"), "--json").document
    assert added["name"] == "my-diary"
    stats = run_lab("corpora stats my-diary --json").document
    assert stats["characters"] == added["characters"] == 333
    assert "my-diary" in run_lab("corpora list").out


def test_doctor_finds_this_machine_fit(home):
    report = run_lab("doctor --json").document
    assert [check for check in report["checks"] if check["state"] == "bad"] == []
    assert report["ok"]
    assert {check["area"] for check in report["checks"]} == {
        "Versions",
        "Devices",
        "Machine",
        "Offline assets",
        "Record",
    }
    assert all(check["advice"] for check in report["checks"] if check["state"] != "ok")


def test_doctor_says_what_to_do_about_a_broken_record(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    (tmp_path / "runs.duckdb").write_bytes(b"this is not a database" * 200)
    ended = run_lab("doctor")
    assert ended.code == 1
    assert "✗ runs.duckdb" in ended.out
    assert "move it away" in ended.out


def test_a_training_beside_the_open_app_leaves_its_rows_as_segments(tmp_path, monkeypatch):
    """The app owns the record: the run is complete all the same, and its rows are taken in by the owner."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    with Database.open() as database:
        ended = run_lab(f"train --preset pocket {QUICK} --json")
        assert ended.code == 0, ended.err
        run = find_run(ended.document["run_id"])
        assert ingest(database, run) > 0
        assert queries.latest(database, run.run_id)["val/loss"] == (ended.document["val_loss"], 3)


def test_the_home_of_these_tests_is_not_the_repositorys(home):
    assert os.environ["LAB_HOME"] == str(home)
