"""Changing a model from inside, on every family."""

import pytest
import torch

from lab.analysis.capture import capture
from lab.analysis.interventions import edited, switched_off
from lab.analysis.model_check import check_model, require_sound
from lab.errors import ModelError
from lab.models.families import anatomy
from tests.analysis.test_capture import FAMILIES, hooks_of, model_of
from tests.tiny_models import PARALLEL, some_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_models_pass_the_check_at_opening(name: str) -> None:
    parts = anatomy(model_of(name))
    found = check_model(parts)
    assert found.ok, found.sentence
    require_sound(parts, found)
    assert hooks_of(parts.model) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_all_heads_off_leave_the_bias_only(name: str) -> None:
    """With nothing from any head, the branch adds the same at every position."""
    parts, ids = anatomy(model_of(name)), some_ids()
    with switched_off(parts, [(1, head) for head in range(parts.n_heads)]):
        found = capture(parts, ids)
    delta = found.residual["delta_attn"][1]
    torch.testing.assert_close(delta, delta[:1, :1].expand_as(delta))
    assert hooks_of(parts.model) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_one_head_off_leaves_the_others_of_its_layer(name: str) -> None:
    """What the mixing layer reads of head 2 is 0, and of the other heads what it was."""
    parts, ids = anatomy(model_of(name)), some_ids()
    seen: list[torch.Tensor] = []
    read = parts.blocks[1].heads_meet.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    with torch.no_grad():
        parts(ids)
        with switched_off(parts, [(1, 2)]):
            parts(ids)
    read.remove()
    before, after = (side_by_side.unflatten(-1, (4, 8)) for side_by_side in seen)
    assert torch.equal(before[:, :, [0, 1, 3]], after[:, :, [0, 1, 3]])
    assert not after[:, :, 2].any()


@pytest.mark.parametrize("point", ["pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn"])
@pytest.mark.parametrize("name", FAMILIES)
def test_putting_back_what_was_there_changes_nothing_and_another_text_everything(name: str, point: str) -> None:
    parts, ids = anatomy(model_of(name)), some_ids(1, 12)
    other = capture(parts, some_ids(2, 12)[1:])
    same = capture(parts, ids)
    if point == "post_attn" and name in PARALLEL:
        with pytest.raises(ModelError, match="side by side"), edited(parts, {(point, 1): lambda x: x}):
            pass
        return
    with torch.no_grad():
        with edited(parts, {(point, 1): lambda _: same.residual[point][1]}):
            torch.testing.assert_close(parts(ids), same.logits, rtol=1e-5, atol=1e-5)
        with edited(parts, {(point, 1): lambda _: other.residual[point][1]}):
            changed = parts(ids)
        assert not torch.allclose(changed, same.logits, atol=1e-3)
        if point == "post_ffn":  # the whole state: from here on it is the other text
            torch.testing.assert_close(changed, other.logits, rtol=1e-5, atol=1e-5)


def test_a_head_or_layer_that_is_not_there_is_named() -> None:
    parts = anatomy(model_of("llama"))
    with pytest.raises(ModelError, match="no head 4"), switched_off(parts, [(0, 4)]):
        pass
    with pytest.raises(ModelError, match="no layer 3"), edited(parts, {("post_ffn", 3): lambda x: x}):
        pass
    with pytest.raises(ModelError, match="no point 'middle'"), edited(parts, {("middle", 0): lambda x: x}):
        pass
