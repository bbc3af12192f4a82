"""Base and adapter from one load: folders that PEFT wrote, and fine-tuning runs."""

from pathlib import Path

import peft
import pytest
import torch

from lab import rundir
from lab.config import build_finetune
from lab.errors import CheckpointError, ModelError
from lab.models.checkpoints import write_checkpoint
from lab.models.sampling import Sampling
from lab.rundir import RunDir
from lab.sessions import ModelSession, Shelf, open_session
from lab.sessions.variants import MOST
from tests.sessions.test_sessions import TEXT, adapter
from tests.tiny_models import saved, tiny, tiny_gpt

GREEDY = Sampling(temperature=0, max_new_tokens=6, stop_at_end=False)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return saved(tiny("llama"), tmp_path / "llama")


def local_adapter(base: Path, folder: Path, *, zero: bool, **options: object) -> Path:
    """An adapter folder that says which model it was trained on."""
    model = tiny("llama")
    model.name_or_path = str(base)  # type: ignore[assignment]
    return adapter(model, folder, zero=zero)


def tuned_run(base: Path, *, steps: tuple[int, ...] = (3,), zero: bool = False, method: str = "lora") -> RunDir:
    """A fine-tuning run as it lies on disk: the adapter's folder, and checkpoints that hold its tensors alone."""
    run = rundir.create_run(build_finetune({"model": str(base), "method": method, "rank": 2}), name="tuned")
    model = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for step in steps:
        if not zero:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(generator=torch.Generator().manual_seed(step))
        tensors = {f"model.{name}": p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        write_checkpoint(run.checkpoints, step=step, tensors=tensors, state={}, val_loss=None, kind="kept")
    model.save_pretrained(str(run.path / "adapter"))
    return run


def weights_of(session: ModelSession) -> int:
    return next(session.model.parameters()).untyped_storage().data_ptr()


def test_an_adapter_folder_opens_with_its_base(llama: Path, tmp_path: Path) -> None:
    folder = local_adapter(llama, tmp_path / "poet", zero=False)
    tuned = open_session(str(folder))
    assert (tuned.name, tuned.variants) == ("poet", ["base", tuned.variant])
    base = open_session(str(llama))
    ids = base.ids(TEXT)
    assert not torch.allclose(tuned.logits(ids), base.logits(ids), atol=1e-3)
    with tuned.using("base"):
        assert torch.equal(tuned.logits(ids), base.logits(ids))
    assert tuned.capture(TEXT).check.ok


def test_the_shelf_loads_a_base_once_for_itself_and_all_its_adapters(
    llama: Path, tmp_path: Path, lab_home: Path
) -> None:
    shelf = Shelf()
    base = shelf.get(str(llama))
    one = shelf.get(str(local_adapter(llama, tmp_path / "one", zero=False)))
    run = tuned_run(llama)
    two = shelf.get(run.run_id)
    assert len(shelf.loaded()) == 1
    assert len({weights_of(session) for session in (base, one, two)}) == 1
    assert shelf.get(str(tmp_path / "one")) is one
    ids = base.ids(TEXT)
    seen = [session.logits(ids) for session in (base, one, two)]
    again = [session.logits(ids) for session in (two, one, base)]
    assert all(torch.equal(a, b) for a, b in zip(seen, reversed(again), strict=True))
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)


def test_an_adapter_of_zeros_differs_from_its_base_by_exactly_zero(llama: Path, tmp_path: Path, lab_home: Path) -> None:
    shelf = Shelf()
    folder, run = local_adapter(llama, tmp_path / "new", zero=True), tuned_run(llama, zero=True)
    base = shelf.get(str(llama)).capture(TEXT)
    for ref in (str(folder), run.run_id):
        session = shelf.get(ref)
        found = session.capture(TEXT)
        assert torch.equal(found.residual.stream, base.residual.stream)
        assert all(torch.equal(a, b) for a, b in zip(found.attention, base.attention, strict=True))
        assert [p.token_id for p in session.generate("a", GREEDY)] == [
            p.token_id for p in shelf.get(str(llama)).generate("a", GREEDY)
        ]


def test_a_fine_tuning_run_opens_at_each_of_its_steps(llama: Path, lab_home: Path) -> None:
    run = tuned_run(llama, steps=(1, 2))
    shelf = Shelf()
    first, newest = shelf.get(f"{run.run_id}@1"), shelf.get("tuned")
    assert (first.step, newest.step, newest.name, newest.run_id) == (1, 2, "tuned", run.run_id)
    ids = first.ids(TEXT)
    assert not torch.equal(first.logits(ids), newest.logits(ids))
    merged = peft.PeftModel.from_pretrained(tiny("llama"), str(run.path / "adapter"))  # written after step 2
    with torch.no_grad():
        assert torch.equal(newest.logits(ids), merged(input_ids=ids).logits)


def test_a_run_that_learnt_beside_four_bits_opens_beside_four_bits(llama: Path, lab_home: Path) -> None:
    shelf = Shelf()
    run = tuned_run(llama, method="qlora")
    session = shelf.get(run.run_id)
    assert (session.precision, open_session(run.run_id).precision) == ("4bit", "4bit")
    assert shelf.get(str(llama), precision="4bit").weights is session.weights
    assert shelf.get(run.run_id, precision="fp32").precision == "fp32"


def test_a_run_in_which_every_weight_was_trained_opens_as_a_model_of_its_own(llama: Path, lab_home: Path) -> None:
    run = rundir.create_run(build_finetune({"model": str(llama), "method": "full"}), name="moved")
    model = tiny("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    write_checkpoint(run.checkpoints, step=7, tensors=tensors, state={}, val_loss=None, kind="final")
    shelf = Shelf()
    session = shelf.get("moved")
    assert (session.name, session.step, session.run_id, session.variants) == ("moved", 7, run.run_id, ["base"])
    ids = session.ids(TEXT)
    with torch.no_grad():
        assert torch.equal(session.logits(ids), model(input_ids=ids).logits)
    assert not torch.equal(session.logits(ids), shelf.get(str(llama)).logits(ids))


def test_texts_of_base_and_adapter_can_be_written_at_the_same_time(llama: Path, tmp_path: Path) -> None:
    shelf = Shelf()
    base, tuned = shelf.get(str(llama)), shelf.get(str(local_adapter(llama, tmp_path / "a", zero=False)))
    alone = [[piece.token_id for piece in session.generate("a", GREEDY)] for session in (base, tuned)]
    both = list(zip(base.generate("a", GREEDY), tuned.generate("a", GREEDY), strict=True))
    assert [[one.token_id for one, _ in both], [two.token_id for _, two in both]] == alone
    assert alone[0] != alone[1]


def test_base_questions_inside_a_tuned_question_are_about_the_base(llama: Path, tmp_path: Path) -> None:
    shelf = Shelf()
    base, tuned = shelf.get(str(llama)), shelf.get(str(local_adapter(llama, tmp_path / "a", zero=False)))
    ids = base.ids(TEXT)
    expected = base.logits(ids), tuned.logits(ids)
    with tuned.lock:
        assert torch.equal(base.logits(ids), expected[0])
        assert torch.equal(tuned.logits(ids), expected[1])


def test_the_labs_own_gpt_takes_an_adapter_too(tmp_path: Path) -> None:
    from lab.data.tokenizers import CharTokenizer

    session = ModelSession(ref="x", name="x", model=tiny_gpt(vocab_size=4), tokenizer=CharTokenizer("abc "))
    tuned = peft.get_peft_model(tiny_gpt(vocab_size=4), peft.LoraConfig(r=2, target_modules=["W_query", "W_value"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    tuned.save_pretrained(str(tmp_path))
    session.add_adapter(tmp_path, "tuned")
    ids = session.ids("abc")
    base = session.logits(ids)
    with session.using("tuned"):
        assert not torch.allclose(session.logits(ids), base, atol=1e-3)
        assert session.capture(ids).check.ok
        assert list(session.generate("ab", GREEDY))


def test_only_the_newest_adapters_stay_on_a_base(llama: Path, tmp_path: Path) -> None:
    session = open_session(str(llama))
    folder = local_adapter(llama, tmp_path / "a", zero=False)
    for number in range(MOST + 2):
        session.add_adapter(folder, f"v{number}")
    assert session.variants == ["base", *(f"v{number}" for number in range(2, MOST + 2))]
    with session.using("v5"):
        assert session.capture(TEXT).check.ok


def test_a_checkpoint_that_does_not_fit_its_base_is_told(llama: Path, lab_home: Path) -> None:
    run = tuned_run(llama)
    info = next(run.checkpoints.glob("*.safetensors"))
    write_checkpoint(
        run.checkpoints, step=4, tensors={"model.base_model.model.nothing.lora_A.default.weight": torch.ones(2, 2)},
        state={}, val_loss=None, kind="kept",
    )  # fmt: skip
    assert info.exists()
    with pytest.raises(ModelError, match="does not fit"):
        open_session(f"{run.run_id}@4")
    assert open_session(f"{run.run_id}@3").capture(TEXT).check.ok
    (run.path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        open_session(f"{run.run_id}@3")
