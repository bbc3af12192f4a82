import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.data.windows import check_lengths, count_windows, split, validation_windows
from lab.errors import DataError

LENGTH = st.integers(0, 2_000)
CONTEXT = st.integers(2, 40)


@given(LENGTH, st.floats(0.01, 0.89))
def test_the_parts_share_no_token_and_leave_none_out(n_tokens: int, val_fraction: float) -> None:
    train, val = split(n_tokens, val_fraction)
    assert [*train, *val] == list(range(n_tokens))


def test_validation_is_the_end_of_the_text() -> None:
    assert split(1_115_394, 0.1) == (range(1_003_854), range(1_003_854, 1_115_394))


@pytest.mark.parametrize(
    ("n_tokens", "context", "stride", "windows"),
    [
        # 10 tokens, context 4: a window takes 5 tokens.
        (10, 4, 4, 2),  # starts 0, 4; from 8 on only 2 are left
        (10, 4, 1, 6),  # starts 0 … 5
        (10, 4, 2, 3),  # starts 0, 2, 4; 6 would need token 10
        (9, 4, 4, 2),  # starts 0, 4: ends with the last token
        (8, 4, 4, 1),
        (5, 4, 4, 1),
        (4, 4, 4, 0),
        (0, 4, 4, 0),
    ],
)
def test_number_of_windows_by_hand(n_tokens: int, context: int, stride: int, windows: int) -> None:
    assert count_windows(n_tokens, context, stride) == windows


@given(LENGTH, CONTEXT, st.integers(1, 40))
def test_number_of_windows_by_counting(n_tokens: int, context: int, stride: int) -> None:
    fitting = [start for start in range(0, n_tokens + 1, stride) if start + context + 1 <= n_tokens]
    assert count_windows(n_tokens, context, stride) == len(fitting)


@given(st.integers(3, 2_000), CONTEXT, st.integers(1, 3_000))
def test_validation_windows_never_overlap(n_tokens: int, context: int, eval_tokens: int) -> None:
    starts = validation_windows(n_tokens, context, eval_tokens)
    assert len(starts) > 0
    assert (np.diff(starts) >= context).all()
    assert starts[0] >= 0
    assert starts[-1] + 1 < n_tokens


@given(st.integers(3, 2_000), CONTEXT)
def test_all_validation_windows_predict_every_token_but_the_first_once(n_tokens: int, context: int) -> None:
    starts = validation_windows(n_tokens, context, None)
    predicted = [place for s in starts for place in range(s + 1, min(s + context, n_tokens - 1) + 1)]
    assert predicted == list(range(1, n_tokens))


def test_asking_for_more_validation_than_there_is_reads_all_of_it() -> None:
    everything = validation_windows(11, 4, None).tolist()
    assert everything == [0, 4, 8]  # labels 1-4, 5-8, 9-10
    assert validation_windows(11, 4, 10).tolist() == everything
    assert validation_windows(11, 4, 10_000).tolist() == everything
    assert validation_windows(11, 4, 9).tolist() == [0, 4]


def test_some_validation_windows_are_spread_evenly() -> None:
    assert validation_windows(401, 4, 20).tolist() == [0, 80, 160, 240, 320]  # 5 of 100 windows
    assert validation_windows(401, 4, 1).tolist() == [0]


def test_a_text_that_is_long_enough_passes() -> None:
    check_lengths(65, 65, 64, val_fraction=0.5)


@pytest.mark.parametrize(
    ("n_train", "n_val", "val_fraction", "parts"),
    [
        (900, 100, 0.1, "leaves the validation part 100,"),
        (90, 10, 0.1, "leaves the training part 90 and the validation part 10,"),
    ],
)
def test_a_text_that_is_too_short_is_told_with_the_arithmetic(
    n_train: int, n_val: int, val_fraction: float, parts: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_lengths(n_train, n_val, 256, val_fraction=val_fraction, corpus="My text")
    sentence = str(caught.value)
    assert f"of its {n_train + n_val:,} tokens" in sentence
    assert parts in sentence
    assert "256 + 1 = 257" in sentence
    assert "at least 2,570 tokens" in sentence
    assert f"context_length of at most {min(n_train, n_val) - 1}" in sentence


def test_a_training_part_that_is_too_short_is_told_too() -> None:
    with pytest.raises(DataError, match=r"val_fraction 0\.75 leaves the training part 100, .* at least 1,028 tokens"):
        check_lengths(100, 300, 256, val_fraction=0.75)


@given(st.integers(6, 3_000), st.integers(2, 300), st.floats(0.01, 0.89))
def test_every_way_out_that_the_sentence_names_works(n_tokens: int, context: int, val_fraction: float) -> None:
    train, val = split(n_tokens, val_fraction)
    try:
        check_lengths(len(train), len(val), context, val_fraction=val_fraction)
        return
    except DataError as error:
        sentence = str(error)

    def passes(n_tokens: int, context: int, val_fraction: float) -> None:
        train, val = split(n_tokens, val_fraction)
        check_lengths(len(train), len(val), context, val_fraction=val_fraction)

    def number_after(words: str) -> float | None:
        return float(sentence.split(words)[1].split()[0].rstrip(",.").replace(",", "")) if words in sentence else None

    longer = number_after("text of at least ")
    assert longer is not None
    passes(int(longer) + 2, context, val_fraction)  # 2: rounding of the split
    if (shorter := number_after("context_length of at most ")) is not None:
        passes(n_tokens, int(shorter), val_fraction)
    if (share := number_after("or a val_fraction of ")) is not None:
        passes(n_tokens, context, share)


def test_a_hopeless_text_is_not_told_to_shrink_the_context() -> None:
    with pytest.raises(DataError) as caught:
        check_lengths(9, 1, 64, val_fraction=0.1)
    assert "context_length of at most" not in str(caught.value)
