"""`lab compare` and `lab probe`, in this process."""

import json
from pathlib import Path

import pytest

from lab.cli import main
from lab.models.generate import Sampling
from lab.sessions import open_session, shelf
from tests.sessions.test_base_and_adapter import local_adapter, tuned_run
from tests.tiny_models import saved, tiny

TEXT = "a cat, a hat, a cat"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    shelf.clear()
    return saved(tiny("llama"), tmp_path / "llama")


def document(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> dict:
    assert main([*command, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_base_and_its_fine_tuning_run_are_compared_from_one_load(
    lab_home: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tuned_run(llama)
    found = document(capsys, "compare", "--base", str(llama), "--tuned", run.run_id, "--text", TEXT)
    assert len(shelf.loaded()) == 1
    assert (found["base"], found["tuned"]) == (str(llama), f"{run.run_id}@3")
    assert len(found["heads"]) == 12
    assert found["largest_head_difference_bits"] > 1e-3
    assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2]
    assert found["kl_nats"] > 0
    assert {"token", "base", "tuned"} == set(found["next_tokens"][0])
    assert found["loss"]["base"] != found["loss"]["tuned"]
    assert document(capsys, "compare", "--tuned", run.run_id, "--text", TEXT)["heads"] == found["heads"], "its own base"
    assert main(["compare", "--tuned", run.run_id, "--text", TEXT]) == 0
    assert "Heads that look elsewhere most" in capsys.readouterr().out


def test_an_adapter_of_zeros_differs_by_exactly_zero(
    lab_home: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = local_adapter(llama, tmp_path / "new", zero=True)
    found = document(capsys, "compare", "--tuned", str(folder), "--text", TEXT)
    assert found["largest_head_difference_bits"] == 0
    assert found["kl_nats"] == 0
    assert {layer["attention"] for layer in found["layers"]} == {0.0} == {x["feed_forward"] for x in found["layers"]}
    assert found["loss"]["base"] == found["loss"]["tuned"]


def test_stored_captures_give_the_differences_of_the_models(
    lab_home: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, stored = tuned_run(llama), [str(tmp_path / f"{name}.safetensors") for name in ("base", "tuned")]
    for ref, path in zip((str(llama), run.run_id), stored, strict=True):
        document(capsys, "attention", "--model", ref, "--text", TEXT, "--store", path)
    live = document(capsys, "compare", "--tuned", run.run_id, "--text", TEXT)
    shelf.clear()
    kept = document(capsys, "compare", "--base", stored[0], "--tuned", stored[1])
    for name in ("heads", "layers", "kl_nats", "loss", "tokens"):
        assert kept[name] == live[name], name
    assert shelf.loaded() == [], "no model was opened"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("compare --tuned {llama} --text a", "say --base M"),
        ("compare --base {llama} --tuned {gpt2}", "say --text TEXT"),
        ("probe --model {llama} --property own", "needs --labels FILE"),
        ("probe --model {llama} --property own --labels nowhere.csv", "cannot be read"),
    ],
)
def test_what_is_missing_is_told(
    command: str, sentence: str, lab_home: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2 = saved(tiny("gpt2"), tmp_path / "gpt2")
    found = document(capsys, *command.format(llama=llama, gpt2=gpt2).split(), code=1)
    assert sentence in found["error"]


def test_probe_prints_each_row_with_its_controls(
    lab_home: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "probe", "--model", str(llama), "--property", "position", "--examples", "400")
    assert [row["row"] for row in found["rows"]] == ["embedding", "after 0", "after 1", "after 2"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["rows"])
    assert {"shuffled", "control"} <= set(found["rows"][0])
    assert found["n_train"] + found["n_test"] <= 400
    assert "does not mean used" in found["note"]
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "text,label\n" + "".join(f"{'a' * (3 + i % 3)} {i},{'even' if i % 2 else 'odd'}\n" for i in range(80))
    )
    command = ["probe", "--model", str(llama), "--property", "own", "--labels", str(labels)]
    assert document(capsys, *command)["classes"] == ["even", "odd"]
    assert main(command) == 0
    assert "held out" in capsys.readouterr().out


def test_a_capture_that_memory_has_no_room_for_is_refused_before_it_is_made(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.errors import ModelError
    from lab.sessions import session as module

    session = open_session(str(llama))
    assert session.check.ok
    monkeypatch.setattr(module, "available", lambda device: (10_000, "this machine's memory"))
    with pytest.raises(ModelError, match=r"A capture of 50 tokens takes .* GiB of this machine's memory are free"):
        session.capture("x" * 50)
    assert list(session.generate("a", Sampling(max_new_tokens=2, stop_at_end=False)))
