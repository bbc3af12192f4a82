"""A fine-tuning run from its folder to its adapter, on tiny models with random weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lab.config import build_pretrain, changed
from lab.errors import ConfigError
from lab.finetuning.adapter import FOLDER
from lab.models.checkpoints import checkpoints_in, read_checkpoint
from lab.rundir import create_run
from lab.sessions import open_session
from lab.training.fork import fork_run
from tests.finetuning.helpers import StopsAt, config_for, finetune, go_on
from tests.training.helpers import SMALL as SMALL_PRETRAINING
from tests.training.helpers import assert_same_tensors, train

pytestmark = pytest.mark.usefixtures("quick")

IDS = torch.tensor([[5, 9, 30, 31, 40, 7]])


def test_a_run_learns_records_and_leaves_an_adapter_that_plain_peft_and_the_lab_open(tiny_llama: Path) -> None:
    trained = finetune(config_for(tiny_llama, max_steps=6, eval_every=3, sample_tokens=4, checkpoint_every=2))
    assert trained.outcome.status == "finished", trained.outcome.error
    losses = trained.rows.metric("val/loss")
    assert list(losses) == [0, 3, 6], "evaluated before the first step"
    assert losses[6] < losses[0]
    samples = trained.rows.tables["samples"]
    assert {row["step"] for row in samples} == {0, 3, 6}
    assert len(samples) == 9
    row = {key: value for row in trained.rows.tables["runs"] for key, value in row.items()}
    assert 0 < row["n_trainable"] < row["n_params"]
    assert trained.run.info()["resolved"]["data"]["label_tokens"] > 0

    moved = [row for row in trained.rows.tables["layer_stats"] if row["name"] == "relative"]
    assert {row["step"] for row in moved} == {0, 3, 6}
    assert all((row["value"] > 0) == (row["step"] > 0) for row in moved)

    tensors = trained.tensors()
    weights = [name for name in tensors if name.startswith("model.")]
    assert weights
    assert all(".lora_" in name for name in weights), "a checkpoint holds the adapter only"

    session = open_session(trained.run.run_id, precision="fp32")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    loaded = PeftModel.from_pretrained(base, str(trained.run.path / FOLDER)).eval()
    with torch.no_grad():
        theirs = loaded(input_ids=IDS).logits
        with loaded.disable_adapter():
            plain = loaded(input_ids=IDS).logits
    torch.testing.assert_close(session.logits(IDS), theirs, atol=1e-5, rtol=1e-5)
    with session.using("base"):
        torch.testing.assert_close(session.logits(IDS), plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(theirs, plain, atol=1e-3)
    middle = open_session(f"{trained.run.run_id}@2", precision="fp32")
    assert not torch.allclose(middle.logits(IDS), theirs, atol=1e-3)


HOW: dict[str, dict[str, Any]] = {
    "lora": {"lora_dropout": 0.2, "grad_accum_steps": 2},
    "packed": {"packing": True, "lora_dropout": 0.1},
    "dora-8bit": {"dora": True, "optimizer": "adamw_8bit", "rank": 64},
    "full": {"method": "full", "optimizer": "paged_adamw_8bit", "learning_rate": 1e-3},
    "nf4": {"method": "qlora", "precision": "bf16", "lora_dropout": 0.1},
    "8-bit": {"method": "lora_8bit", "precision": "bf16"},
    "dora beside 8 bits": {"method": "lora_8bit", "dora": True},
    "checkpointed": {"gradient_checkpointing": True, "lora_dropout": 0.2, "precision": "bf16"},
}


@pytest.mark.parametrize("how", HOW)
def test_stopped_and_resumed_is_the_same_run_bit_for_bit(how: str, tiny_llama: Path) -> None:
    config = config_for(tiny_llama, max_steps=5, eval_every=2, **HOW[how])
    straight = finetune(config)
    assert straight.outcome.status == "finished", straight.outcome.error
    run = create_run(config)
    rows = StopsAt(run, 3)
    assert go_on(run, rows).outcome.status == "stopped"
    run.ask(want="run")
    torch.manual_seed(99)  # whatever else has drawn from the shared generator meanwhile
    resumed = go_on(run)
    assert resumed.outcome.status == "finished", resumed.outcome.error
    assert_same_tensors(straight.tensors(), resumed.tensors())
    assert straight.losses[5] == resumed.losses[5]


def test_gradient_checkpointing_and_accumulation_do_not_change_what_is_learnt(tiny_llama: Path) -> None:
    plain, checked = (
        finetune(config_for(tiny_llama, lora_dropout=0.3, gradient_checkpointing=on)).tensors() for on in (False, True)
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, checked[name], atol=1e-5, rtol=1e-4)
    whole, parts = (finetune(config_for(tiny_llama, batch_size=4 // n, grad_accum_steps=n)).losses for n in (1, 4))
    assert whole == pytest.approx(parts, abs=1e-4)


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_adapters_beside_quantised_weights_train_on_a_cpu(method: str, tiny_llama: Path) -> None:
    trained = finetune(config_for(tiny_llama, method=method, max_steps=6, precision="bf16"))
    assert trained.outcome.status == "finished", trained.outcome.error
    losses = trained.rows.metric("val/loss")
    assert losses[6] < losses[0]
    row = {key: value for row in trained.rows.tables["runs"] for key, value in row.items()}
    whole = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_llama).parameters())
    assert row["n_params"] == whole, "4-bit weights are counted one by one"
    assert all(".lora_" in name for name in trained.tensors() if name.startswith("model."))


def test_every_weight_trains_under_full(tiny_llama: Path) -> None:
    trained = finetune(config_for(tiny_llama, method="full", learning_rate=1e-3))
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_llama).named_parameters())
    after = {n.removeprefix("model."): t for n, t in trained.tensors().items() if n.startswith("model.")}
    assert after.keys() == before.keys()
    assert not any(torch.equal(after[name], before[name]) for name in before)
    assert not (trained.run.path / FOLDER).exists()
    session = open_session(trained.run.run_id, precision="fp32")
    assert torch.equal(dict(session.model.named_parameters())["model.norm.weight"], after["model.norm.weight"])


@pytest.fixture
def own_gpt(quick: Path) -> str:
    """A run of a GPT that reads letters, with a context long enough for the rows."""
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    text = quick / "letters.txt"
    text.write_text((letters + "the quick brown fox jumps over the lazy dog. ") * 40)
    config = build_pretrain(SMALL_PRETRAINING, {"corpus": str(text), "context_length": 300, "emb_dim": 32})
    return train(config).run.run_id


def test_lora_works_on_a_gpt_of_the_lab_and_its_numbers_can_be_checked_by_hand(own_gpt: str) -> None:
    trained = finetune(config_for(own_gpt, max_steps=6, eval_every=3, sample_tokens=3))
    assert trained.outcome.status == "finished", trained.outcome.error
    losses = trained.rows.metric("val/loss")
    assert losses[6] < losses[0]
    assert trained.run.config().model.model == f"{own_gpt}@3"  # type: ignore[union-attr]
    base, tuned = open_session(own_gpt), open_session(trained.run.run_id)
    ids = base.ids("Question:")
    assert not torch.allclose(base.logits(ids), tuned.logits(ids), atol=1e-4)
    # W x + (alpha / rank) B A x, by hand, in the first layer.
    tensors = {n.removeprefix("model.base_model.model."): t for n, t in trained.tensors().items()}
    a, b = (tensors[f"trf_blocks.0.att.W_query.lora_{one}.default.weight"] for one in "AB")
    layer = copy.deepcopy(dict(base.model.named_modules())["trf_blocks.0.att.W_query"])
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with tuned.lock, torch.no_grad():
        (adapted,) = [m for n, m in tuned.model.named_modules() if n.endswith("trf_blocks.0.att.W_query")]
        torch.testing.assert_close(adapted(x), layer(x) + 32 / 4 * (x @ a.T @ b.T), atol=1e-5, rtol=1e-5)


def test_a_fork_goes_on_from_the_parents_adapter_with_other_settings(tiny_llama: Path) -> None:
    parent = finetune(config_for(tiny_llama))
    config = changed(config_for(tiny_llama, max_steps=5), learning_rate=1e-3)
    child = fork_run(parent.run, 3, config)
    trained = go_on(child)
    assert trained.outcome.status == "finished", trained.outcome.error
    assert trained.rows.metric("val/loss")[3] == parent.rows.metric("val/loss")[3]
    assert trained.rows.metric("train/learning_rate")[4] < 1e-3 * 1.01
    assert open_session(child.run_id).step == 5


@pytest.mark.parametrize(
    ("knob", "value"), [("rank", 8), ("method", "full"), ("target_modules", "mlp"), ("alpha", 1.0)]
)
def test_a_fork_cannot_change_what_the_adapter_is(knob: str, value: object, tiny_llama: Path) -> None:
    parent = finetune(config_for(tiny_llama, max_steps=1))
    with pytest.raises(ConfigError, match=knob):
        fork_run(parent.run, None, config_for(tiny_llama, **{knob: value}))


def failed(config: Any) -> str:
    trained = finetune(config)
    assert trained.outcome.status == "failed"
    assert trained.outcome.error
    assert not checkpoints_in(trained.run.checkpoints)
    return trained.outcome.error


def test_fast_mode_says_why_it_is_off(tiny_llama: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "needs an NVIDIA GPU" in failed(config_for(tiny_llama, mode="fast"))


def test_a_row_longer_than_the_models_context_is_refused_before_anything_trains(own_gpt: str) -> None:
    assert "reads at most 300 tokens" in failed(config_for(own_gpt, dataset="curious"))


def test_a_gpt_of_the_lab_is_neither_packed_nor_quantised(own_gpt: str) -> None:
    assert "turn packing off" in failed(config_for(own_gpt, packing=True, max_length=300))
    assert "choose method lora or full" in failed(config_for(own_gpt, method="qlora"))


def test_a_fine_tuning_run_is_no_base(tiny_llama: Path) -> None:
    first = finetune(config_for(tiny_llama, max_steps=1))
    assert "fork it to train it further" in failed(config_for(first.run.run_id))


def test_changed_rows_cannot_be_resumed_on(tiny_llama: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [f'{{"prompt": "What is {n}?", "completion": "It is {n}."}}\n' for n in range(20)]
    rows.write_text("".join(lines))
    run = create_run(config_for(tiny_llama, dataset=str(rows)))
    go_on(run, StopsAt(run, 1))
    run.ask(want="run")
    rows.write_text("".join(lines[:-1]) + '{"prompt": "What is new?", "completion": "This is."}\n')
    assert "have changed since this run began" in (go_on(run).outcome.error or "")
    assert read_checkpoint(checkpoints_in(run.checkpoints)[-1])
