"""Laws of the quantiser: nearest code, straight-through gradient, dead codes."""

import pytest
import torch
import torch.nn.functional as F

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.vq_tokenizer import NEVER, VectorQuantizer, perplexity, usage


def quantizer(codes: int = 7, dim: int = 3, *, l2: bool = False, seed: int = 0) -> VectorQuantizer:
    made = VectorQuantizer(codes, dim, l2_normalised=l2)
    made.reset(keyed_generator(seed, "codes"))
    return made


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=keyed_generator(seed, "latents"))


def test_nearest_code_matches_brute_force() -> None:
    made, z = quantizer(31, 5), normal(4, 6, 5)
    squared = (z.double().unsqueeze(-2) - made.codebook.double()).square().sum(-1)  # (4, 6, 31)
    out = made(z)
    assert torch.equal(out.ids, squared.argmin(-1))
    torch.testing.assert_close(out.values, made.codebook[out.ids])
    assert torch.equal(made.lookup(out.ids), made.codebook[out.ids])


def test_first_index_wins_a_tie() -> None:
    made = quantizer(4, 2)
    with torch.no_grad():  # small whole numbers, so that every distance is exact
        made.codebook.copy_(torch.tensor([[4.0, 4.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, 0.0], [-3.0, 0.0]])
    squared = (z.unsqueeze(1) - made.codebook).square().sum(-1)
    assert made(z).ids.tolist() == [1, 0, 1, 3]
    assert squared[2, 1] == squared[2, 2] == squared[2, 3]


def test_cosine_variant_matches_brute_force_and_ignores_scale() -> None:
    made, z = quantizer(31, 5, l2=True), normal(50, 5)
    cosine = F.cosine_similarity(z.unsqueeze(1), made.codebook, dim=-1)  # (50, 31)
    out = made(z)
    assert torch.equal(out.ids, cosine.argmax(-1))
    torch.testing.assert_close(out.values.norm(dim=-1), torch.ones(50))
    scaled = made(z * torch.logspace(-3, 3, 50).unsqueeze(-1))
    assert torch.equal(scaled.ids, out.ids)
    with torch.no_grad():
        made.codebook.mul_(torch.logspace(-2, 2, 31).unsqueeze(-1))
    rescaled = made(z)
    assert torch.equal(rescaled.ids, out.ids)
    torch.testing.assert_close(rescaled.values, out.values)


def test_the_plain_variant_does_see_scale() -> None:
    made, z = quantizer(31, 5), normal(50, 5)
    assert not torch.equal(made(z).ids, made(z * 100).ids)


def test_gradient_passes_straight_through() -> None:
    made, z = quantizer(), normal(10, 3).requires_grad_()
    upstream = normal(10, 3, seed=2)
    made(z).values.backward(upstream)
    assert z.grad is not None
    assert torch.equal(z.grad, upstream)
    assert made.codebook.grad is None


def test_cosine_gradient_is_that_of_normalising() -> None:
    made, z = quantizer(l2=True), normal(10, 3).requires_grad_()
    upstream = normal(10, 3, seed=2)
    (got,) = torch.autograd.grad(made(z).values, z, upstream)
    (wanted,) = torch.autograd.grad(F.normalize(z, dim=-1), z, upstream)
    torch.testing.assert_close(got, wanted)


def test_each_loss_moves_one_side() -> None:
    made, z = quantizer(), normal(10, 3).requires_grad_()
    out = made(z)
    assert out.codebook_loss.item() == out.commitment_loss.item()
    both = [z, made.codebook]
    to_z, to_codes = torch.autograd.grad(
        out.codebook_loss, both, retain_graph=True, allow_unused=True
    )
    assert to_z is None
    assert to_codes[out.ids[0]].abs().sum() > 0
    to_z, to_codes = torch.autograd.grad(out.commitment_loss, both, allow_unused=True)
    torch.testing.assert_close(to_z, 2 * (z - made.lookup(out.ids)) / z.numel())
    assert to_codes is None


def test_autocast_does_not_change_the_codes() -> None:
    made, z = quantizer(200, 8), normal(500, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = made(z)
    assert low.values.dtype == torch.float32
    assert torch.equal(low.ids, made(z).ids)


def test_idle_counts_steps_since_the_last_use() -> None:
    made = quantizer(3, 2)
    assert made.idle.tolist() == [NEVER] * 3
    made.track(torch.tensor([True, False, True]))
    made.track(torch.tensor([False, False, True]))
    assert made.idle.tolist() == [1, NEVER, 0]


def test_revival_replaces_dead_codes_only_with_latents_of_the_batch() -> None:
    made, z = quantizer(6, 3), normal(20, 3)
    made.idle.copy_(torch.tensor([0, 5, 4, NEVER, 3, 6]))
    before = made.codebook.detach().clone()
    count = made.revive(z, keyed_generator(3), patience=5)
    dead = torch.tensor([False, True, False, True, False, True])
    assert count.item() == 3
    assert torch.equal(made.codebook[~dead], before[~dead])
    found = (made.codebook[dead].unsqueeze(1) == z).all(-1)  # (3, 20)
    assert found.any(1).all()
    assert found.any(0).sum() == 3, "three different latents"
    assert made.idle.tolist() == [0, 0, 4, 0, 3, 0]


def test_revival_depends_on_its_generator_and_nothing_else() -> None:
    books = []
    for seed, codes in ((3, 0), (3, 0), (4, 0)):
        made = quantizer(6, 3, seed=codes)
        torch.rand(5, generator=torch.default_generator)  # other draws do not matter
        made.revive(normal(20, 3), keyed_generator(seed))
        books.append(made.codebook.detach().clone())
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


def test_a_small_batch_revives_a_large_codebook() -> None:
    made, z = quantizer(10, 3), normal(4, 3)
    assert made.revive(z, keyed_generator(0)).item() == 10
    assert len(made.codebook.unique(dim=0)) == 4


def test_perplexity_of_known_frequencies() -> None:
    assert perplexity(usage(torch.arange(8).view(2, 4), 16)).item() == pytest.approx(8)
    assert perplexity(usage(torch.full((5, 5), 3), 16)).item() == pytest.approx(1)
    halves = torch.tensor([0, 0, 1, 2])  # entropy 1.5 bits
    assert perplexity(usage(halves, 4)).item() == pytest.approx(2**1.5)


@pytest.mark.parametrize(("codes", "dim"), [(1, 4), (0, 4), (8, 0)])
def test_an_impossible_codebook_is_named(codes: int, dim: int) -> None:
    with pytest.raises(InputError, match=f"codes={codes}, code_dim={dim}"):
        VectorQuantizer(codes, dim)
