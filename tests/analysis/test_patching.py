"""Patching: everything from the other prompt gives the other prompt's answer, nothing gives one's own."""

import pytest
import torch

from lab.analysis.interventions import edited
from lab.analysis.patching import Patching, patch_everywhere
from lab.analysis.recording import record
from lab.errors import DataError, ModelError
from lab.models.families import Anatomy, anatomy
from tests.tiny_models import PARALLEL, some_ids, tiny, tiny_gpt

FAMILIES = ["lab", "gpt2", "llama", "gemma2", "neox"]
POINTS = ["pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn"]


def opened(name: str) -> Anatomy:
    return anatomy(tiny_gpt() if name == "lab" else tiny(name))


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight tokens that differ at position 3 only."""
    clean = some_ids(1, 8)[0]
    corrupted = clean.clone()
    corrupted[3] = (clean[3] + 1) % 200 + 10
    return clean, corrupted


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("name", FAMILIES)
def test_patching_every_position_of_the_stream_gives_the_other_prompts_logits(name: str, layer: int) -> None:
    parts, (clean, corrupted) = opened(name), prompts()
    (source,) = record(parts, clean[None], "post_ffn")
    with torch.no_grad():
        wanted = parts(clean[None])
        with edited(parts, {("post_ffn", layer): lambda _: source[layer]}):
            patched = parts(corrupted[None])
    torch.testing.assert_close(patched, wanted)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_entry_is_the_run_with_that_one_place_replaced(name: str, point: str) -> None:
    parts, (clean, corrupted) = opened(name), prompts()
    if point == "post_attn" and name in PARALLEL:
        with pytest.raises(ModelError, match="side by side"):
            patch_everywhere(parts, clean, corrupted, 5, 9, point="post_attn")
        return
    result = patch_everywhere(parts, clean, corrupted, 5, 9, point=point)  # type: ignore[arg-type]
    assert result.differences.shape == (3, 8)
    (source,) = record(parts, clean[None], point)  # type: ignore[arg-type]
    for layer, position in ((0, 3), (1, 7), (2, 5)):

        def put(stream: torch.Tensor, layer: int = layer, position: int = position) -> torch.Tensor:
            stream = stream.clone()
            stream[:, position] = source[layer, 0, position]
            return stream

        with torch.no_grad(), edited(parts, {(point, layer): put}):
            last = parts(corrupted[None])[0, -1]
        assert result.differences[layer, position].item() == pytest.approx((last[5] - last[9]).item(), abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_must_come_out_where_the_difference_can_only_pass_one_way(name: str) -> None:
    """Before the first block only the changed token differs; after the last only the last position is read."""
    parts, (clean, corrupted) = opened(name), prompts()
    first = patch_everywhere(parts, clean, corrupted, 5, 9, point="pre_attn").restored[0]
    assert first[3].item() == pytest.approx(1, abs=1e-3)
    assert first[[0, 1, 2, 4, 5, 6, 7]].abs().max().item() == pytest.approx(0, abs=1e-3)
    last = patch_everywhere(parts, clean, corrupted, 5, 9).restored[-1]
    assert last[7].item() == pytest.approx(1, abs=1e-3)
    assert last[:7].abs().max().item() == pytest.approx(0, abs=1e-3)


def test_clean_and_corrupted_are_the_prompts_own_differences() -> None:
    parts, (clean, corrupted) = opened("lab"), prompts()
    result = patch_everywhere(parts, clean, corrupted, 5, 9)
    with torch.no_grad():
        own = [parts(ids[None])[0, -1] for ids in (clean, corrupted)]
    assert [result.clean, result.corrupted] == pytest.approx([(o[5] - o[9]).item() for o in own])


def test_long_prompts_are_patched_in_several_batches_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, (clean, corrupted) = opened("llama"), prompts()
    whole = patch_everywhere(parts, clean, corrupted, 5, 9)
    monkeypatch.setattr("lab.analysis.patching._TOKENS_AT_ONCE", 24)
    torch.testing.assert_close(patch_everywhere(parts, clean, corrupted, 5, 9).differences, whole.differences)


def test_the_model_is_as_before_afterwards() -> None:
    parts, (clean, corrupted) = opened("lab"), prompts()
    with torch.no_grad():
        before = parts(clean[None])
        patch_everywhere(parts, clean, corrupted, 5, 9)
        assert torch.equal(parts(clean[None]), before)


@pytest.mark.parametrize(
    ("clean", "corrupted", "sentence"),
    [([1, 2, 3], [1, 2], "3 and 2 tokens"), ([], [], "empty"), ([4, 5], [4, 5], "the same tokens")],
)
def test_prompts_that_cannot_be_patched_are_refused(clean: list[int], corrupted: list[int], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        patch_everywhere(opened("lab"), torch.tensor(clean), torch.tensor(corrupted), 5, 9)


def test_without_a_difference_there_is_nothing_to_restore() -> None:
    with pytest.raises(DataError, match="the same logit difference"):
        _ = Patching("post_ffn", torch.zeros(1, 1), clean=1.0, corrupted=1.0).restored
