"""What was written is what was trained: each format, loaded again, against the run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lab.config import build_pretrain
from lab.errors import LabError, ModelError, RunError
from lab.finetuning.batches import RowBatches
from lab.finetuning.certificate import compare, verdict_of
from lab.finetuning.export import Export, export_run, exports_of
from lab.finetuning.gguf_file import permuted
from lab.jobs import execute
from lab.rundir import RunDir, create_run
from lab.store.recorder import SegmentRecorder
from tests.finetuning.helpers import config_for, gradients, task_for, tiny_folder
from tests.finetuning.tokenizers import saved_tokenizer
from tests.tiny_models import VOCAB, filled

SMALL_GPT: dict[str, Any] = {
    "tokenizer": "char", "emb_dim": 32, "n_layers": 2, "n_heads": 2, "context_length": 300, "batch_size": 2,
    "max_steps": 2, "eval_every": 100, "eval_tokens": 64, "sample_tokens": 0, "threads": 1, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(folder))
        with_merges(tiny_folder(folder / "tiny"))
        yield folder


def with_merges(folder: Path) -> None:
    """Give the tokenizer of bytes two tokens of two letters: readers of GGUF expect a list of merges."""
    described = json.loads((folder / "tokenizer.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder)
    described["model"]["vocab"] |= {"he": VOCAB, "th": VOCAB + 1}  # the template's own tokens come after them
    for token in described["added_tokens"]:
        token["id"] += 2 * (token["id"] >= VOCAB)
    described["model"]["merges"] = [["h", "e"], ["t", "h"]]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    model.resize_token_embeddings(model.config.vocab_size + 2, mean_resizing=False)
    model.save_pretrained(folder)


def trained(home: Path, **changes: Any) -> RunDir:
    run = create_run(config_for(home / "tiny", **changes), name=f"tiny {changes.get('method', 'lora')}")
    outcome = execute(run, SegmentRecorder(run))
    assert outcome.error is None, outcome.error
    return run


@pytest.fixture(scope="module")
def lora(home: Path) -> RunDir:
    return trained(home, rank=8)


def wide(home: Path) -> Path:
    """A model wide enough for blocks of 64 weights."""
    folder = home / "wide"
    if not folder.exists():
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=VOCAB + 2,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
            )
        )
        filled(model).save_pretrained(folder)
        saved_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def qlora(home: Path) -> RunDir:
    return trained(home, model=str(wide(home)), method="qlora")


def found(made: Export) -> dict[str, Any]:
    return made.certificate["comparison"]


@pytest.mark.parametrize(("format", "numbers"), [("adapter", "fp32"), ("merged", "fp32")])
def test_in_32_bits_every_place_agrees(lora: RunDir, format: Any, numbers: Any) -> None:
    made = export_run(lora, format, numbers=numbers)
    assert made.certificate["verdict"] == "equivalent"
    assert found(made)["top1"] == 1.0
    assert found(made)["kl_mean"] <= 1e-6
    assert found(made)["places"] > 300


@pytest.mark.parametrize("numbers", ["f16", "q8_0"])
def test_a_gguf_file_read_by_transformers_is_the_trained_model_to_the_rounding_of_its_format(
    lora: RunDir, numbers: Any
) -> None:
    made = export_run(lora, "gguf", numbers=numbers)
    assert made.certificate["verdict"] in ("equivalent", "close")
    assert made.certificate["tokens_agree"] is True
    assert found(made)["kl_mean"] <= {"f16": 1e-5, "q8_0": 1e-2}[numbers]


def test_qwen2_whose_heads_keep_their_halves_and_have_biases_is_written_right(home: Path) -> None:
    folder = home / "qwen2"
    with_merges(tiny_folder(folder, "qwen2"))
    made = export_run(trained(home, model=str(folder)), "gguf", numbers="f16")
    assert made.certificate["tokens_agree"] is True
    assert found(made)["kl_mean"] <= 1e-4


def test_a_sliding_window_is_refused_since_the_file_would_compute_something_else(home: Path) -> None:
    folder = home / "mistral"
    with_merges(tiny_folder(folder, "mistral"))
    with pytest.raises(ModelError, match="looks back 4 tokens only"):
        export_run(trained(home, model=str(folder)), "gguf")


def test_the_adapter_changes_the_model_so_agreeing_means_something(lora: RunDir, home: Path) -> None:
    from lab.sessions import open_session

    ids = torch.arange(3, 40)[None]
    tuned, base = open_session(lora.run_id, precision="fp32"), open_session(str(home / "tiny"), precision="fp32")
    assert compare([tuned.logits(ids)[0]], [base.logits(ids)[0]]).kl_mean > 1e-3


def test_the_folder_loads_in_plain_peft_and_in_plain_transformers(lora: RunDir, home: Path) -> None:
    from peft import PeftModel

    from lab.sessions import open_session

    ids = torch.arange(3, 40)[None]
    expected = open_session(lora.run_id, precision="fp32").logits(ids)
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32)
        adapter = export_run(lora, "adapter").folder
        assert torch.allclose(PeftModel.from_pretrained(base, adapter)(ids).logits, expected, atol=1e-4)
        merged = export_run(lora, "merged", numbers="fp32").folder
        plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
        assert torch.allclose(plain(ids).logits, expected, atol=1e-4)


def test_4_bit_training_merged_into_what_it_was_trained_beside_is_the_trained_model(qlora: RunDir) -> None:
    made = export_run(qlora, "merged", numbers="fp32")
    assert made.certificate["verdict"] == "equivalent"
    assert "the NF4 weights of" in made.certificate["merged_into"]


def test_8_bit_training_merged_is_close_to_what_was_trained(home: Path) -> None:
    run = trained(home, model=str(wide(home)), method="lora_8bit")
    made = export_run(run, "merged", numbers="fp32")
    assert "the int8 weights of" in made.certificate["merged_into"]
    assert found(made)["kl_mean"] <= 0.05, "inputs are rounded to 8 bits in training alone"
    assert made.certificate["reference"].startswith("int8 weights")


def test_a_look_in_eval_mode_does_not_cut_the_gradients_of_a_4_bit_training(home: Path) -> None:
    task, data = task_for(config_for(wide(home), method="qlora"))
    batch = RowBatches(data.train, batch_size=2, grad_accum_steps=1, seed=0, pack_to=None).next_step()[0]

    def gradients_now() -> dict[str, torch.Tensor]:
        task.model.train()
        task.loss_sum(batch).backward()
        found = gradients(task.model)
        task.model.zero_grad(set_to_none=True)
        return found

    before = gradients_now()
    task.evaluate(lambda: False)
    after = gradients_now()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_merged_into_the_original_weights_it_says_that_it_is_another_model(qlora: RunDir) -> None:
    made = export_run(qlora, "merged", numbers="fp32", into="original")
    assert made.certificate["verdict"] == "not equivalent"
    assert "not the NF4 ones that it was trained beside" in made.certificate["merged_into"]
    assert made.certificate["sentence"].startswith("Not equivalent: KL ")
    assert "Not equivalent" in (made.folder / "README.md").read_text()


@pytest.mark.parametrize(("method", "changes"), [("lora", {"dora": True}), ("full", {})])
def test_dora_and_full_training_are_merged_exactly(home: Path, method: str, changes: dict[str, Any]) -> None:
    run = trained(home, method=method, **changes)
    assert export_run(run, "merged", numbers="fp32").certificate["verdict"] == "equivalent"
    if method == "full":
        with pytest.raises(RunError, match="there is no adapter"):
            export_run(run, "adapter")


def test_an_adapter_on_a_gpt_of_the_lab_becomes_a_gpt_2_folder_that_computes_the_same(home: Path) -> None:
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    (home / "letters.txt").write_text((letters + "the quick brown fox jumps over the lazy dog. ") * 40)
    base = create_run(build_pretrain(SMALL_GPT, {"corpus": str(home / "letters.txt")}))
    assert execute(base, SegmentRecorder(base)).error is None
    run = trained(home, model=base.run_id, max_length=300)
    for format in ("adapter", "merged"):
        made = export_run(run, format, numbers="fp32")  # type: ignore[arg-type]
        assert made.certificate["verdict"] == "equivalent"
    assert "GPT-2" in made.certificate["notes"][0]
    with pytest.raises(ModelError, match="not for a GPT of the lab"):
        export_run(run, "gguf")


def test_the_certificate_names_every_file_with_its_hash_and_is_listed_with_the_run(lora: RunDir) -> None:
    made = export_run(lora, "adapter")
    stored = json.loads((made.folder / "certificate.json").read_text())
    assert stored["step"] == 3
    assert {file["path"] for file in stored["files"]} == {"adapter_config.json", "adapter_model.safetensors"}
    assert made.folder in [one.folder for one in exports_of(lora)]
    assert load_file(made.folder / "adapter_model.safetensors")


def test_a_format_that_cannot_hold_the_model_is_refused_and_leaves_nothing(lora: RunDir, home: Path) -> None:
    tiny_folder(home / "gpt2", "gpt2")
    run = trained(home, model=str(home / "gpt2"))
    with pytest.raises(ModelError, match="GGUF is written for the families llama, mistral, qwen2, not for gpt2"):
        export_run(run, "gguf")
    assert exports_of(run) == []
    assert not list((run.path / "exports").glob("*"))
    with pytest.raises(ModelError, match="merged is written in bf16 or fp32"):
        export_run(lora, "merged", numbers="q8_0")


def test_a_pretraining_is_no_fine_tuning(home: Path) -> None:
    from lab.config import PRESETS

    with pytest.raises(LabError, match="is no fine-tuning"):
        export_run(create_run(PRESETS["pocket"]), "adapter")


def test_rows_of_a_head_go_from_halves_to_neighbours() -> None:
    two_heads = np.arange(8)[:, None]
    assert permuted(two_heads, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_comparison_is_the_divergence_and_the_agreement_worked_out_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    made = compare([p.log()], [q.log()])
    by_hand = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert made.kl_max == pytest.approx(by_hand)
    assert made.kl_mean == pytest.approx(by_hand / 2)
    assert made.top1 == 0.5
    assert verdict_of(made, is_exact=True) == "not equivalent"
