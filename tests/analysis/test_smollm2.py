"""A real LLM: everything that holds on tiny random models holds on it, in every precision."""

import warnings
from pathlib import Path

import pytest
import torch

from lab.analysis.capture import capture
from lab.analysis.checks import branches_threshold, rows_threshold
from lab.models.sampling import Sampling
from lab.models.shapes import PRECISIONS, Precision
from lab.sessions import ModelSession, open_session

pytestmark = pytest.mark.slow
TEXT = (
    "When Mary and John went to the store, John gave a drink to Mary. Then the cat sat on the mat, and the dog, who "
    "had been waiting all day, finally decided that the time had come to leave the house."
)


@pytest.fixture(scope="module")
def session(smollm2: Path) -> ModelSession:
    return open_session(str(smollm2), precision="fp32")


def test_it_equals_transformer_lens_within_a_hundred_thousandth(session: ModelSession, smollm2: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens is not installed")
        reference = bridge.TransformerBridge.boot_transformers(str(smollm2), device="cpu", dtype=torch.float32)
    found = session.capture(TEXT)
    with torch.no_grad():
        logits, cache = reference.run_with_cache(found.ids)
    assert (found.logits - logits).abs().max() <= 1e-5
    points = {"pre_attn": "hook_resid_pre", "post_attn": "hook_resid_mid", "post_ffn": "hook_resid_post"}
    for layer in range(30):
        for ours, theirs in points.items():
            assert (found.residual[ours][layer] - cache[f"blocks.{layer}.{theirs}"]).abs().max() <= 1e-5
        assert (found.attention[layer] - cache[f"blocks.{layer}.attn.hook_pattern"]).abs().max() <= 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_checks_are_green_and_not_far_from_red_in_every_precision(smollm2: Path, precision: Precision) -> None:
    """Calibration: the measured error of the rows is a noticeable share of the threshold, and below it."""
    session = open_session(str(smollm2), precision=precision)
    found = session.capture(TEXT, logits="last")
    assert session.check.ok, session.check.sentence
    assert found.check.ok, found.check.sentence
    rows = found.check.named("rows sum to 1")
    assert 0.1 * rows.threshold < rows.measured <= rows.threshold
    assert rows.threshold == rows_threshold(found.attention[0].dtype, found.ids.shape[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "4bit"])
def test_a_branch_that_is_off_by_a_hundredth_is_red_in_fp32_and_by_a_tenth_in_16_bits(
    smollm2: Path, precision: Precision
) -> None:
    session = open_session(str(smollm2), precision=precision)
    wrong = 1.01 if precision == "fp32" else 1.1
    handle = session.anatomy.blocks[12].module.register_forward_hook(lambda module, args, out: out * wrong)
    check = capture(session.model, session.ids(TEXT), logits="last").check
    handle.remove()
    failed = check.named("pre + Δattn + Δffn = post")
    assert not failed.ok
    assert failed.threshold == branches_threshold(session.anatomy.dtype)


def test_it_answers_a_question(session: ModelSession) -> None:
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    text = "".join(piece.text for piece in session.generate(prompt, Sampling(temperature=0, max_new_tokens=20)))
    assert text == "The capital of France is Paris."


def test_first_token_is_a_sink_and_some_head_looks_at_the_previous_one(session: ModelSession) -> None:
    summary = session.capture(TEXT, keep="summary", logits="last").summary
    assert float(summary["sink"].max()) > 0.9
    assert float(summary["sink"].mean()) > 0.3
    assert float(summary["previous_token"].max()) > 0.7


def test_tokens_are_labelled_visibly_and_add_up_to_the_bytes_of_the_text(session: ModelSession) -> None:
    for text in ("Hello,  world\n", "naïve café 🙂", "שלום", "print('x')\t# tab"):
        ids = session.tokenizer.encode(text)
        assert session.tokenizer.decode(ids) == text
        assert session.tokenizer.count_bytes(ids) == len(text.encode())
        labels = session.tokenizer.tokenize(text)
        assert len(labels) == len(ids)
        assert not any(character in label for label in labels for character in " \n\t")
