"""One handle for every model: runs, folders, adapters."""

import threading
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from lab import rundir
from lab.config import build_pretrain
from lab.data.tokenizers import CharTokenizer
from lab.errors import CheckpointError, LabError, ModelError, RunError
from lab.files import write_json
from lab.models.checkpoints import write_checkpoint
from lab.models.gpt import build_gpt
from lab.models.sampling import Sampling
from lab.rundir import RunDir
from lab.sessions import ModelSession, Shelf, open_session
from lab.sessions.variants import BASE
from tests.tiny_models import filled, saved, tiny

TEXT = "A cat,\n two 🐈s"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return saved(tiny("llama"), tmp_path / "llama")


@pytest.fixture
def run(lab_home: Path) -> RunDir:
    """A run with checkpoints at steps 0 and 5, never trained."""
    tokenizer = CharTokenizer("abc ")
    shape = {"vocab_size": 4, "context_length": 8, "emb_dim": 16, "n_layers": 2, "n_heads": 2}
    run = rundir.create_run(build_pretrain(shape, {"tokenizer": "char"}), name="letters")
    write_json(run.tokenizer_path, tokenizer.to_json())
    for step in (0, 5):
        model = build_gpt(run.config().model, seed=step)
        tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        write_checkpoint(run.checkpoints, step=step, tensors=tensors, state={}, val_loss=None, kind="kept")
    return run


def adapter(model: torch.nn.Module, folder: Path, *, zero: bool) -> Path:
    """A LoRA on every linear layer; B is 0 at the start of a training, and random after."""
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    if not zero:
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    tuned.save_pretrained(str(folder))
    return folder


def test_a_run_opens_at_its_newest_state_or_at_a_step(run: RunDir) -> None:
    newest, first = open_session("letters"), open_session(f"{run.run_id}@0")
    assert (newest.step, first.step, newest.name) == (5, 0, "letters")
    ids = newest.ids("abc a")
    assert newest.logits(ids).shape == (1, 5, 4)
    assert not torch.equal(newest.logits(ids), first.logits(ids))
    assert newest.capture("abc a").check.ok


def test_what_is_no_model_is_told(lab_home: Path, run: RunDir) -> None:
    with pytest.raises(RunError, match="no run 'nothing'"):
        open_session("nothing")
    with pytest.raises(CheckpointError, match="not a step"):
        open_session("letters@last")
    with pytest.raises(CheckpointError, match="no checkpoint at step 3"):
        open_session("letters@3")
    with pytest.raises(ModelError, match="lab models pull gpt2"):
        open_session("gpt2")
    with pytest.raises(ModelError, match="lab models pull someone/model"):
        open_session("someone/model")
    (lab_home / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no model"):
        open_session(str(lab_home / "empty"))


def test_a_folder_opens_reads_writes_and_can_be_looked_into(llama: Path) -> None:
    session = open_session(str(llama))
    assert session.precision == "fp32"
    assert session.tokenizer.tokenize(TEXT)[:8] == ["A", "␣", "c", "a", "t", ",", "\\n", "␣"]
    assert session.tokenizer.decode(session.tokenizer.encode(TEXT)) == TEXT
    assert session.tokenizer.count_bytes(session.tokenizer.encode(TEXT)) == len(TEXT.encode())
    assert session.check.ok
    assert session.capture(TEXT).check.ok
    pieces = list(session.generate(TEXT, Sampling(max_new_tokens=5, stop_at_end=False)))
    assert len(pieces) == 5


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "neox", "mistral", "gptj"])
def test_writing_with_the_cache_is_writing_without(name: str, tmp_path: Path) -> None:
    """Also past the context and past the sliding window. Greedy, against one whole forward pass per token."""
    session = open_session(str(saved(tiny(name), tmp_path / name)))
    ids = session.ids("x" * 58)
    written = [
        piece.token_id
        for piece in session.generate("x" * 58, Sampling(temperature=0, max_new_tokens=10, stop_at_end=False))
    ]
    for _ in range(10):
        ids = torch.cat([ids, session.logits(ids[:, -64:])[:, -1:].argmax(-1)], dim=1)
    assert written == ids[0, 58:].tolist()


def test_the_same_seed_writes_the_same_and_leaves_the_default_generator_alone(llama: Path) -> None:
    session = open_session(str(llama))
    before = torch.get_rng_state()
    one, other = ([p.token_id for p in session.generate("a", Sampling(seed=3, max_new_tokens=8))] for _ in range(2))
    assert one == other
    session.capture("abc")
    assert torch.equal(before, torch.get_rng_state())


def test_opening_in_bf16_never_changes_the_default_dtype_of_the_process(llama: Path) -> None:
    seen: set[torch.dtype] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.0002):
            seen.add(torch.get_default_dtype())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(5):
            session = open_session(str(llama), precision="bf16")
    finally:
        done.set()
        watcher.join()
    assert seen == {torch.float32}
    assert {p.dtype for p in session.model.parameters()} == {torch.bfloat16}


def test_opening_draws_nothing_from_the_default_generator(llama: Path, tmp_path: Path) -> None:
    folder = adapter(tiny("llama"), tmp_path / "adapter", zero=False)
    before = torch.get_rng_state()
    session = open_session(str(llama))
    session.add_adapter(folder, "tuned")
    assert torch.equal(before, torch.get_rng_state())


def test_base_and_adapter_share_one_copy_of_the_weights(llama: Path, tmp_path: Path) -> None:
    session = open_session(str(llama))
    ids, size = session.ids(TEXT), session.bytes
    base = session.logits(ids)
    session.add_adapter(adapter(tiny("llama"), tmp_path / "a", zero=False), "tuned")
    assert session.variants == [BASE, "tuned"]
    assert torch.equal(session.logits(ids), base)
    with session.using("tuned"):
        tuned = session.logits(ids)
        with session.using(BASE):
            assert torch.equal(session.logits(ids), base)
        assert torch.equal(session.logits(ids), tuned)
        assert session.capture(TEXT).check.ok
    assert not torch.allclose(tuned, base, atol=1e-3)
    assert torch.equal(session.logits(ids), base)
    assert session.bytes < 1.5 * size


def test_an_adapter_that_learned_nothing_differs_by_exactly_zero(llama: Path, tmp_path: Path) -> None:
    session = open_session(str(llama))
    base = session.capture(TEXT)
    session.add_adapter(adapter(tiny("llama"), tmp_path / "a", zero=True), "new")
    with session.using("new"):
        new = session.capture(TEXT)
    assert torch.equal(base.residual.stream, new.residual.stream)
    assert all(torch.equal(a, b) for a, b in zip(base.attention, new.attention, strict=True))


def test_a_text_keeps_its_variant_while_others_switch(llama: Path, tmp_path: Path) -> None:
    session = open_session(str(llama))
    session.add_adapter(adapter(tiny("llama"), tmp_path / "a", zero=False), "tuned")
    sampling = Sampling(temperature=0, max_new_tokens=6, stop_at_end=False)
    alone = [piece.token_id for piece in session.generate("a", sampling)]
    mixed = []
    for piece in session.generate("a", sampling):
        mixed.append(piece.token_id)
        with session.using("tuned"):
            session.logits(session.ids("b"))
    assert mixed == alone


def test_an_adapter_that_is_none_or_does_not_fit_is_told(llama: Path, tmp_path: Path, run: RunDir) -> None:
    session = open_session(str(llama))
    with pytest.raises(ModelError, match="holds no adapter"):
        session.add_adapter(tmp_path, "x")
    with pytest.raises(ModelError, match="no variant 'x'"), session.using("x"):
        pass
    with pytest.raises(ModelError, match="does not fit letters"):
        open_session("letters").add_adapter(adapter(tiny("llama"), tmp_path / "a", zero=False), "x")


def test_a_capture_and_a_text_take_turns(llama: Path) -> None:
    """Hooks of a capture in one thread never see the tokens that another thread writes."""
    session = open_session(str(llama))
    expected = session.capture(TEXT).residual.stream
    wrong: list[str] = []

    def look() -> None:
        for _ in range(5):
            found = session.capture(TEXT)
            if not found.check.ok or not torch.equal(found.residual.stream, expected):
                wrong.append(found.check.sentence)

    looking = threading.Thread(target=look)
    looking.start()
    list(session.generate("abc", Sampling(max_new_tokens=30, stop_at_end=False)))
    looking.join()
    assert wrong == []


def test_heads_switched_off_change_the_prediction_for_as_long_as_it_lasts(llama: Path) -> None:
    session = open_session(str(llama))
    ids = session.ids(TEXT)
    before = session.logits(ids)
    with session.changed(heads_off=[(0, 0)]):
        assert not torch.equal(session.logits(ids), before)
    assert torch.equal(session.logits(ids), before)


def test_the_shelf_gives_the_same_object_and_puts_the_oldest_away(tmp_path: Path) -> None:
    folders = [str(saved(tiny(name), tmp_path / name)) for name in ("llama", "qwen2", "gpt2")]
    size = open_session(folders[0]).bytes
    shelf = Shelf(limit=int(2.9 * size))
    first = shelf.get(folders[0])
    assert shelf.get(folders[0]) is first
    second = shelf.get(folders[1])
    assert shelf.get(folders[0]) is first
    shelf.get(folders[2])
    assert second not in shelf.loaded()
    assert first in shelf.loaded()
    with pytest.raises(ModelError, match="may take"):
        Shelf(limit=1000).get(folders[0])


def test_the_shelf_opens_a_run_anew_when_it_has_a_newer_state(run: RunDir) -> None:
    shelf = Shelf()
    old = shelf.get("letters")
    model = build_gpt(run.config().model, seed=9)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    write_checkpoint(run.checkpoints, step=9, tensors=tensors, state={}, val_loss=None, kind="kept")
    assert (old.step, shelf.get("letters").step) == (5, 9)
    assert shelf.get(f"{run.run_id}@5") is old


def test_the_shelf_never_puts_away_a_model_that_is_being_asked(tmp_path: Path) -> None:
    folders = [str(saved(tiny(name), tmp_path / name)) for name in ("llama", "qwen2")]
    shelf = Shelf(limit=int(1.9 * open_session(folders[0]).bytes))
    held = shelf.get(folders[0])
    asking, answered = threading.Event(), threading.Event()

    def ask() -> None:
        with held.lock:
            asking.set()
            answered.wait(10)

    thread = threading.Thread(target=ask)
    thread.start()
    asking.wait(10)
    try:
        shelf.get(folders[1])
        assert held in shelf.loaded()
    finally:
        answered.set()
        thread.join()


def test_a_model_of_an_unknown_family_writes_but_is_not_looked_into(tmp_path: Path) -> None:
    import transformers

    config = transformers.OPTConfig(
        vocab_size=259, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=64,
    )  # fmt: skip
    model = filled(transformers.AutoModelForCausalLM.from_config(config))
    session = open_session(str(saved(model, tmp_path / "opt")))
    assert list(session.generate("ab", Sampling(max_new_tokens=3, stop_at_end=False)))
    with pytest.raises(ModelError, match="OPTForCausalLM cannot be looked into"):
        session.capture("ab")


def test_a_damaged_or_incomplete_folder_is_told(llama: Path) -> None:
    weights = llama / "model.safetensors"
    content = weights.read_bytes()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: weights.write_bytes(content[:-100]), "bytes of weights where its header says"),
        (lambda: weights.write_bytes(b"not weights"), "not a safetensors file"),
        (lambda: weights.unlink(), "holds no model"),
    ]
    for damage, sentence in cases:
        damage()
        with pytest.raises(LabError, match=sentence):
            open_session(str(llama))


def test_a_model_that_does_not_fit_is_refused_with_what_would(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.models import pretrained

    needed = pretrained.footprint(llama).needed
    monkeypatch.setattr(pretrained, "available", lambda device: (needed["bf16"], "this machine's memory"))
    with pytest.raises(ModelError, match=r"needs .* GiB in fp32, but .* are free\. Open it in bf16"):
        open_session(str(llama), precision="fp32")
    assert open_session(str(llama)).precision == "bf16"
    monkeypatch.setattr(pretrained, "available", lambda device: (10, "this machine's memory"))
    with pytest.raises(ModelError, match="No precision of it fits here"):
        open_session(str(llama))


def test_a_session_is_one_object_with_named_parts(llama: Path) -> None:
    session = open_session(str(llama))
    assert isinstance(session, ModelSession)
    assert (session.step, session.config) == (None, None)
