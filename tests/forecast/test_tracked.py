"""Our tracker on a real step of the real trainer."""

import pytest
import torch

from lab.config import PRESETS, changed
from lab.forecast.memory import CurvePoint, curve_of, forecast, step_timeline
from lab.forecast.tracked import tracked
from tests.forecast.reference import real_step_peak, real_trainer

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = changed(
    PRESETS["pocket"], emb_dim=64, n_layers=2, n_heads=4, context_length=64, batch_size=4, precision="fp32", threads=1,
    vocab_size=300, drop_rate=0.1, max_steps=5,
)  # fmt: skip

CONFIGS = {
    "plain": {},
    "bf16, manual attention, accumulation": {
        "precision": "bf16", "attention_impl": "manual", "grad_accum_steps": 3, "attention_drop_rate": 0.1,
    },
    "checkpointing, five layers": {"gradient_checkpointing": True, "n_layers": 5},
    "8-bit AdamW, tied, a large vocabulary": {"optimizer": "adamw_8bit", "tie_embeddings": True, "vocab_size": 5_000},
}  # fmt: skip


def highest_by_phase(curve: tuple[CurvePoint, ...]) -> dict[str, int]:
    return {
        phase: max(point.bytes for point in curve if point.phase == phase)
        for phase in ("forward", "backward", "update")
    }


@pytest.mark.parametrize("values", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_tracked_step_is_the_forecast_one_and_what_the_allocator_handed_out(values: dict[str, object]) -> None:
    config = changed(TINY, **values)
    trainer = real_trainer(config)
    trainer.task.model.train()
    with tracked(trainer) as found:
        assert found.peak_bytes is None
        trainer._step()
    said = forecast(config, "cpu")
    step = max(said.phases[phase].bytes for phase in ("forward", "backward", "update"))
    assert found.peak_bytes == pytest.approx(step, rel=1e-3)
    assert found.peak_bytes == pytest.approx(real_step_peak(config), rel=1e-3)
    measured, replayed = highest_by_phase(found.points), highest_by_phase(curve_of(step_timeline(config, "cpu")))
    assert measured == {phase: pytest.approx(size, rel=0.01) for phase, size in replayed.items()}


def test_a_later_step_is_the_same_as_the_first() -> None:
    trainer = real_trainer(TINY)
    trainer.task.model.train()
    peaks = []
    for _ in range(2):
        with tracked(trainer) as found:
            trainer._step()
        peaks.append(found.peak_bytes)
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-3)


def test_looking_changes_nothing_of_what_is_learned_and_leaves_nothing_behind() -> None:
    def after_three_steps(look: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        trainer = real_trainer(TINY)
        trainer.task.model.train()
        for step in range(3):
            if look and step == 1:
                with tracked(trainer):
                    trainer._step()
            else:
                trainer._step()
        hooks = [module._forward_hooks for module in trainer.task.model.modules()]
        assert not any(hooks)
        assert "loss_sum" not in vars(trainer.task)
        return list(trainer.task.model.parameters())

    for one, other in zip(after_three_steps(True), after_three_steps(False), strict=True):
        assert torch.equal(one, other)
