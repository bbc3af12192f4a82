"""CKA, effective rank and PCA, against their definitions and against clouds built for the purpose."""

import pytest
import torch
from torch import Tensor

from lab.analysis.similarity import cka_of_layers, cloud, effective_rank, linear_cka, pca
from lab.errors import DataError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=99))[0]


@pytest.mark.parametrize("debiased", [False, True])
def test_a_cloud_is_like_itself_rotated_scaled_and_moved(debiased: bool) -> None:
    x = gaussian(40, 8)
    assert linear_cka(x, x, debiased=debiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 3 * x @ rotation(8) + 5, debiased=debiased) == pytest.approx(1, abs=1e-12)


def test_cka_is_not_invariant_to_stretching_one_axis() -> None:
    x = gaussian(40, 8)
    assert linear_cka(x, x * torch.tensor([20.0, *[1.0] * 7])) < 0.9


def test_cka_is_the_centred_alignment_of_gram_matrices() -> None:
    """Kornblith et al. 2019, written out with n × n matrices."""
    x, y = gaussian(12, 5), gaussian(12, 7, seed=1)
    centre = torch.eye(12, dtype=torch.float64) - 1 / 12
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x, y) == pytest.approx(expected.item(), abs=1e-12)


def test_debiased_cka_is_the_formula_of_song_with_gram_matrices_written_out() -> None:
    x, y = gaussian(12, 5), gaussian(12, 7, seed=1)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        k, m = (a @ a.T).fill_diagonal_(0), (b @ b.T).fill_diagonal_(0)
        one = torch.ones(12, dtype=torch.float64)
        return (torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / (11 * 10) - 2 / 10 * (one @ k @ m @ one)) / (
            12 * 9
        )

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert linear_cka(x, y, debiased=True) == pytest.approx(expected.item(), abs=1e-12)


def test_unrelated_clouds_with_few_inputs_look_alike_unless_debiased() -> None:
    pairs = [(gaussian(20, 200, seed=s), gaussian(20, 200, seed=s + 100)) for s in range(20)]
    plain = sum(linear_cka(x, y) for x, y in pairs) / 20
    debiased = sum(linear_cka(x, y, debiased=True) for x, y in pairs) / 20
    assert plain > 0.8
    assert abs(debiased) < 0.05


def test_cka_of_layers_is_symmetric_with_ones_on_the_diagonal() -> None:
    layers = torch.stack([gaussian(30, 6, seed=s) for s in range(3)])
    table = cka_of_layers(layers, layers)
    assert torch.allclose(table, table.T)
    assert torch.allclose(table.diagonal(), torch.ones(3, dtype=torch.float64))


def test_clouds_of_different_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="10 and 12 vectors"):
        linear_cka(gaussian(10, 3), gaussian(12, 3))


def test_a_cloud_without_spread_is_refused() -> None:
    with pytest.raises(DataError, match="no directions"):
        effective_rank(torch.ones(5, 3))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equally_strong_directions_have_effective_rank_k(k: int) -> None:
    axes = torch.eye(8, dtype=torch.float64)[:k]
    x = torch.cat([axes, -axes]) @ rotation(8)
    assert effective_rank(x) == pytest.approx(k)


def test_one_dominating_direction_has_effective_rank_near_one() -> None:
    assert effective_rank(gaussian(50, 8) * torch.tensor([1e4, *[1.0] * 7])) < 1.02


def test_pca_finds_the_planted_direction_and_its_share() -> None:
    direction = torch.tensor([3.0, 4.0], dtype=torch.float64) / 5
    across = torch.tensor([4.0, -3.0], dtype=torch.float64) / 5
    x = torch.stack([10 * direction, -10 * direction, across, -across]) + 7
    found = pca(x)
    assert torch.allclose(found.directions[0], direction)
    assert found.explained.tolist() == pytest.approx([100 / 101, 1 / 101])
    assert torch.allclose(found.coordinates @ found.directions + found.mean, x)


def test_pca_of_the_mirrored_cloud_has_the_same_directions() -> None:
    x = gaussian(30, 5)
    assert torch.allclose(pca(x).directions, pca(-x).directions)


def test_a_cloud_is_every_position_of_every_text() -> None:
    assert cloud(torch.zeros(2, 7, 4)).shape == (14, 4)
