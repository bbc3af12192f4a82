"""The memory of a fine-tuning run from its config: an answer for every method, what is said where it does not fit, and
the first step of a real run beside it."""

from pathlib import Path
from typing import Any

import pytest

from lab.errors import ModelError
from lab.finetuning.batches import Extent
from lab.finetuning.job import FineTuneJob
from lab.forecast.budget import gpu_budget
from lab.forecast.finetune_config import FineTuneAdviser, finetune_need
from lab.rundir import create_run
from lab.training.run import train_run
from tests.finetuning.conftest import quick as quick
from tests.finetuning.conftest import tiny_llama as tiny_llama
from tests.finetuning.helpers import config_for, finetune
from tests.finetuning.test_runs import own_gpt as own_gpt
from tests.training.helpers import RowList, Trained, assert_same_tensors

pytestmark = pytest.mark.filterwarnings("ignore")

METHODS: list[dict[str, Any]] = [
    {},
    {"method": "qlora"},
    {"method": "lora_8bit", "precision": "bf16"},
    {"method": "full"},
    {"dora": True, "method": "lora_8bit"},
    {"mode": "fast"},
    {"packing": True, "attention_impl": "manual"},
    {"precision": "auto", "optimizer": "paged_adamw_8bit"},
]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("changes", METHODS, ids=str)
def test_there_is_an_answer_for_every_method_and_its_parts_add_up(
    changes: dict[str, Any], device: Any, tiny_llama: Path
) -> None:
    need = finetune_need(config_for(tiny_llama, **changes), device)
    assert sum(need.kinds.values()) == need.peak_bytes == max(moment.bytes for moment in need.phases.values())
    assert max(point.bytes for point in need.curve) == need.peak_bytes
    assert need.extent == Extent(512, 511)
    assert (need.checkpoint_bytes > 0) == (device == "cpu")
    assert need.peak.line


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"gradient_checkpointing": True}, {"batch_size": 16}], ids=str)
def test_beside_adapters_fp32_needs_more_than_bf16(changes: dict[str, Any], tiny_llama: Path) -> None:
    auto, fp32, bf16 = (
        finetune_need(config_for(tiny_llama, **changes, precision=name), "cpu") for name in ("auto", "fp32", "bf16")
    )
    assert auto.peak_bytes == fp32.peak_bytes > bf16.peak_bytes


def test_a_gpt_of_the_lab_is_forecast_and_4_bits_of_it_are_refused_in_a_sentence(own_gpt: str) -> None:
    lora, full = (finetune_need(config_for(own_gpt, method=method), "cpu") for method in ("lora", "full"))
    assert lora.kinds["adapters"] > 0
    assert full.kinds["optimizer"] > lora.kinds["optimizer"]
    with pytest.raises(ModelError, match="choose method lora or full"):
        finetune_need(config_for(own_gpt, method="qlora"), "cpu")


def test_a_mixture_of_experts_is_said_to_be_unknown_and_its_run_is_not_stopped_by_that(tmp_path: Path) -> None:
    import transformers

    from tests.finetuning.tokenizers import saved_tokenizer
    from tests.tiny_models import CONFIGS

    shape = CONFIGS["llama"]().to_dict()
    experts = transformers.MixtralConfig(**{**shape, "vocab_size": 261, "architectures": None}, num_local_experts=4)
    transformers.AutoModelForCausalLM.from_config(experts).save_pretrained(tmp_path / "experts")
    config = config_for(saved_tokenizer(tmp_path / "experts"))
    with pytest.raises(ModelError, match="cannot be replayed without its weights"):
        finetune_need(config, "cpu")
    assert FineTuneAdviser(create_run(config)).foresee(config) is None


def test_only_what_is_learnt_has_scores(tiny_llama: Path) -> None:
    config = config_for(tiny_llama, gradient_checkpointing=True)
    few, all_of_them = (finetune_need(config, "cpu", Extent(512, labels)).phases["forward"] for labels in (20, 511))
    scores = 4 * 261 * 2 * 511  # fp32, vocabulary, rows, labels
    assert all_of_them.kinds["logits"] == 2 * scores, "and how far off they are"
    assert few.bytes < all_of_them.bytes - scores


def test_a_run_records_its_forecast_and_advice_fits_into_what_there_is(tiny_llama: Path, quick: Path) -> None:
    config = config_for(tiny_llama, batch_size=8)
    adviser = FineTuneAdviser(create_run(config))
    found = adviser.foresee(config)
    assert found.needed_bytes > 0
    need = finetune_need(config, "cpu")
    assert need.verdict(gpu_budget(16)).fits
    limit = round(0.7 * need.limited_bytes)
    advice = adviser.out_of_memory(config, limit)
    assert advice
    for change in advice:
        changed = finetune_need(config_for(tiny_llama, **{"batch_size": 8, **change.changes}), "cpu")
        assert changed.limited_bytes <= limit


@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.1}, {"method": "qlora"}, {"method": "lora_8bit"}, {"method": "full"}], ids=str
)
def test_the_first_step_of_a_run_is_followed_and_changes_nothing(
    changes: dict[str, Any], tiny_llama: Path, quick: Path
) -> None:
    config = config_for(tiny_llama, completion_only=False, max_length=300, **changes)
    plain = finetune(config)
    run, rows = create_run(config), RowList()
    outcome = train_run(run, rows, None, FineTuneAdviser(run), FineTuneJob)
    assert outcome.status == "finished", outcome.error
    followed = Trained(run, rows, outcome)
    assert_same_tensors(plain.tensors(), followed.tensors())
    memory = run.info()["memory"]
    need = finetune_need(config, "cpu", Extent(**run.info()["resolved"]["extent"]))
    assert memory["step_forecast_bytes"] == need.peak_bytes
    # The forecast is for the longest rows; those of the first step are as they come.
    assert 0.5 * need.peak_bytes < outcome.memory["system/step_memory_gib"] * 2**30 <= 1.05 * need.peak_bytes
