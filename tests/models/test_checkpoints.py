"""Checkpoints on disk: whole or not there, and what is damaged says so."""

import json
import threading
from pathlib import Path

import pytest
import torch

from lab.config import GPTConfig
from lab.errors import CheckpointError, LabError
from lab.models import checkpoints
from lab.models.checkpoints import CheckpointInfo, checkpoints_in, find_checkpoint, read_checkpoint, write_checkpoint
from lab.models.gpt import GPTModel, build_gpt
from lab.rundir import RunDir

SHAPE = GPTConfig(vocab_size=11, context_length=8, emb_dim=8, n_layers=1, n_heads=2)


def written(
    folder: Path, step: int = 3, kind: checkpoints.Kind = "kept", model: GPTModel | None = None
) -> CheckpointInfo:
    model = model or build_gpt(SHAPE, seed=step)
    tensors = {f"model.{name}": parameter.detach().clone() for name, parameter in model.named_parameters()}
    tensors["optimizer.step"] = torch.tensor(step)
    state = {"place": [1, 2], "loss": 0.1 + 0.2}
    return write_checkpoint(folder, step=step, tensors=tensors, state=state, val_loss=1.5, kind=kind)


def flip_a_byte(path: Path, place: int = -100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_round_trip_gives_back_every_tensor_and_number_to_the_bit(tmp_path: Path) -> None:
    model = build_gpt(SHAPE, seed=1)
    info = written(tmp_path, model=model)
    tensors, state = read_checkpoint(checkpoints_in(tmp_path)[0])
    assert state == {"place": [1, 2], "loss": 0.1 + 0.2}
    assert torch.equal(tensors["optimizer.step"], torch.tensor(3))
    for name, parameter in model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter)
    assert checkpoints_in(tmp_path) == [info]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.int64, torch.float64, torch.bool])
def test_every_dtype_an_optimizer_keeps_comes_back_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    info = write_checkpoint(tmp_path, step=1, tensors={"a": tensor}, state={}, val_loss=None, kind="kept")
    back = read_checkpoint(info)[0]["a"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_tied_matrix_is_stored_once_and_stays_tied_after_loading(tmp_path: Path) -> None:
    shape = GPTConfig(**{**SHAPE.model_dump(), "tie_embeddings": True})
    source, target = build_gpt(shape, seed=1), build_gpt(shape, seed=2)
    info = written(tmp_path, model=source)
    assert "model.out_head.weight" not in read_checkpoint(info)[0]
    checkpoints.load_weights(info, target)
    assert target.out_head.weight is target.tok_emb.weight
    assert torch.equal(target.tok_emb.weight, source.tok_emb.weight)


def test_list_is_by_step_and_a_kept_one_stands_for_a_rolling_one_of_the_same_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (20, 3, 100):
        written(run.checkpoints, step)
    for step in (20, 101):
        written(run.resume, step, "resume")
    found = checkpoints.list_checkpoints(run)
    assert [(info.step, info.kind) for info in found] == [(3, "kept"), (20, "kept"), (100, "kept"), (101, "resume")]
    assert find_checkpoint(run).step == 101
    assert find_checkpoint(run, 20).path.parent == run.checkpoints


def test_file_without_its_json_was_never_finished_and_is_not_listed(tmp_path: Path) -> None:
    written(tmp_path, 1)
    written(tmp_path, 2).path.with_suffix(".json").unlink()
    assert [info.step for info in checkpoints_in(tmp_path)] == [1]
    checkpoints.remove_lonely(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1.json", "checkpoint-1.safetensors"]


def test_flipped_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    for place in (0, 30, 2_000, -1):
        info = written(tmp_path)
        flip_a_byte(info.path, place)
        with pytest.raises(
            CheckpointError, match=r"checkpoint-3\.safetensors of step 3 is damaged.*choose another step"
        ):
            read_checkpoint(info)


def test_cut_off_file_is_noticed(tmp_path: Path) -> None:
    info = written(tmp_path)
    info.path.write_bytes(info.path.read_bytes()[:-1])
    assert not checkpoints.is_whole(info)


def test_checkpoint_whose_json_is_damaged_is_listed_and_says_so_when_it_is_opened(tmp_path: Path) -> None:
    written(tmp_path, 1)
    written(tmp_path, 2).path.with_suffix(".json").write_text('{"step": 2')
    assert [info.step for info in checkpoints_in(tmp_path)] == [1, 2]
    with pytest.raises(CheckpointError, match="step 2 is damaged"):
        read_checkpoint(checkpoints_in(tmp_path)[1])


def test_json_of_a_newer_lab_damages_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path, 2).path.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert [info.step for info in checkpoints_in(tmp_path)] == [2]


def test_missing_checkpoint_is_one_sentence_with_the_steps_there_are(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20261120-0531-a3f9")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        find_checkpoint(run)
    written(run.checkpoints, 5)
    written(run.checkpoints, 9)
    with pytest.raises(CheckpointError, match="no checkpoint at step 7; it has 5, 9"):
        find_checkpoint(run, 7)


def test_file_that_is_gone_between_a_look_and_the_reading_is_one_sentence(tmp_path: Path) -> None:
    info = written(tmp_path)
    info.path.unlink()
    with pytest.raises(CheckpointError, match="is gone; choose another step"):
        read_checkpoint(info)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": 12}, r"tok_emb\.weight is \[11, 8\] in the file and \[12, 8\] in the model"),
        ({"emb_dim": 16}, "a different width, context, depth or vocabulary"),
        ({"n_layers": 2}, "it lacks"),
        ({"qkv_bias": True}, "it lacks"),
        ({"tie_embeddings": True}, r"has \['out_head\.weight'\] too many"),
    ],
)
def test_weights_of_another_shape_or_vocabulary_are_refused_and_change_nothing(
    change: dict, sentence: str, tmp_path: Path
) -> None:
    info = written(tmp_path)
    other = build_gpt(GPTConfig(**{**SHAPE.model_dump(), **change}), seed=9)
    before = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    with pytest.raises(CheckpointError, match=sentence):
        checkpoints.load_weights(info, other)
    assert all(torch.equal(before[name], parameter) for name, parameter in other.named_parameters())


def test_mark_changes_the_kind_and_nothing_else(tmp_path: Path) -> None:
    info = written(tmp_path, kind="final")
    marked = checkpoints.mark(info, "saved")
    assert checkpoints_in(tmp_path) == [marked]
    assert marked.row() == {**info.row(), "kind": "saved"}
    assert checkpoints.is_whole(marked)


def test_delete_removes_both_files_of_that_step_only(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    written(run.checkpoints, 1), written(run.checkpoints, 2)
    checkpoints.delete_checkpoint(run, 1)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["checkpoint-2.json", "checkpoint-2.safetensors"]
    with pytest.raises(CheckpointError, match="no kept checkpoint at step 1"):
        checkpoints.delete_checkpoint(run, 1)


def test_rolling_state_is_not_for_deleting(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    written(run.resume, 1, "resume")
    with pytest.raises(CheckpointError, match="no kept checkpoint"):
        checkpoints.delete_checkpoint(run, 1)


def test_number_that_is_none_is_never_written_into_the_state(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_checkpoint(tmp_path, step=1, tensors={}, state={"loss": float("nan")}, val_loss=None, kind="kept")


def test_listing_while_a_run_replaces_its_rolling_state_finds_one_or_two_and_never_fails(tmp_path: Path) -> None:
    """What a page does at each poll."""
    written(tmp_path, 0, "resume")
    done = threading.Event()

    def roll() -> None:
        for step in range(1, 40):
            written(tmp_path, step, "resume")
            for info in checkpoints_in(tmp_path):
                if info.step != step:
                    checkpoints.remove(info)
        done.set()

    thread = threading.Thread(target=roll)
    thread.start()
    found = set()
    while not done.is_set():
        found.add(len(checkpoints_in(tmp_path)))
    thread.join()
    assert found <= {1, 2}


def test_failed_write_leaves_the_older_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = written(tmp_path)
    before = info.path.read_bytes()

    def full(*_: object, **__: object) -> None:
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LabError, match=r"could not be written: .*No space left on device"):
        written(tmp_path)
    assert info.path.read_bytes() == before
    assert checkpoints.is_whole(checkpoints_in(tmp_path)[0])
    assert len(list(tmp_path.iterdir())) == 2
