"""Randomness is addressed by a key, and categorical draws follow their law."""

from __future__ import annotations

import math

import pytest
import torch
from tape import Tape

from unmask.draws import Draws, gumbel_from_uniform, invert_cdf, keyed_generator, keyed_seed


def test_a_key_names_one_stream() -> None:
    assert keyed_seed(1, "token", 2) == keyed_seed(1, "token", 2)
    others = [keyed_seed(1, "token", 3), keyed_seed(2, "token", 2), keyed_seed(1, "order", 2)]
    assert len({keyed_seed(1, "token", 2), *others}) == 4
    first, second = (torch.rand(3, generator=keyed_generator(5, "x")) for _ in range(2))
    assert torch.equal(first, second)


def test_a_row_depends_on_its_own_seed_alone() -> None:
    together = Draws([3, 1, 4]).uniform("order", 7, 5)
    alone = Draws([1]).uniform("order", 7, 5)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(Draws([4, 3]).normal("x", 0, 2)[0], Draws([4]).normal("x", 0, 2)[0])


def test_the_order_of_asking_changes_nothing() -> None:
    one, other = Draws([9]), Draws([9])
    late = one.uniform("order", 3, 4)
    for step in range(3):
        other.uniform("token", step, 4)
    assert torch.equal(other.uniform("order", 3, 4), late)


def test_the_run_seed_feeds_only_what_rows_share() -> None:
    one, other = Draws([1], run_seed=1), Draws([1], run_seed=2)
    assert torch.equal(one.uniform("a", 0, 3), other.uniform("a", 0, 3))
    assert not torch.equal(one.shared_uniform("a", 0, 3), other.shared_uniform("a", 0, 3))
    assert not torch.equal(one.shared_uniform("a", 0, 3), one.uniform("a", 0, 3)[0]), "one seed"


def test_inverse_cdf_draws_by_the_given_weights() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0])
    draws = 40_000
    u = torch.rand(draws, generator=keyed_generator("law"))
    ids = invert_cdf(probs.expand(draws, 5), u)
    share = torch.bincount(ids, minlength=5) / draws
    spread = (probs * (1 - probs) / draws).sqrt()
    assert torch.all((share - probs).abs() <= 4.5 * spread), share


def test_inverse_cdf_at_its_ends_never_draws_an_impossible_code() -> None:
    probs = torch.tensor([0.0, 0.7, 0.3, 0.0])
    ends = torch.tensor([0.0, torch.finfo(torch.float32).eps, 1 - 2**-24])
    assert invert_cdf(probs.expand(3, 4), ends).tolist() == [1, 1, 2]
    short = probs * (1 - 1e-6)  # a float32 sum may end below 1
    assert invert_cdf(short.expand(3, 4), ends).tolist() == [1, 1, 2]
    assert invert_cdf(probs, torch.tensor(1.0)).item() == 2, "a number that was rounded up to 1"


def test_inverse_cdf_of_what_is_no_number_gives_a_code_all_the_same() -> None:
    probs = torch.tensor([[torch.nan, 0.5, 0.5], [0.5, torch.nan, 0.5], [torch.nan] * 3])
    assert invert_cdf(probs[[0, 2]], torch.tensor([0.3, 0.9])).tolist() == [2, 2]
    assert 0 <= invert_cdf(probs[1], torch.tensor(0.9)).item() < 3


def test_the_exponential_race_of_a_tape_has_the_same_law() -> None:
    probs = torch.tensor([0.5, 0.2, 0.3])
    rows = 20_000
    noise = torch.empty(1, 1, rows, 3).exponential_(generator=keyed_generator("race"))
    where = torch.arange(rows)[None]
    ids = Tape({"token": noise}, 1).categorical(probs.expand(1, rows, 3), 0, where, rows)
    share = torch.bincount(ids[0], minlength=3) / rows
    assert torch.all((share - probs).abs() <= 4.5 * (probs * (1 - probs) / rows).sqrt())


def test_where_is_read_does_not_change_what_is_drawn() -> None:
    probs = torch.rand(2, 6, 11, generator=keyed_generator("p")).softmax(-1)
    everywhere = torch.arange(6).expand(2, 6)
    full = Draws([1, 2]).categorical(probs, 0, everywhere, 6)
    some = torch.tensor([[4, 1], [0, 5]])
    index = some.unsqueeze(-1).expand(-1, -1, 11)
    part = Draws([1, 2]).categorical(probs.gather(1, index), 0, some, 6)
    assert torch.equal(part, full.gather(1, some))


def test_gumbel_numbers_stay_finite_and_have_their_mean() -> None:
    ends = gumbel_from_uniform(torch.tensor([0.0, 1 - 2**-24, 1.0]))
    wanted = [-math.log(-math.log(1e-20)), 24 * math.log(2), -math.log(1e-20)]
    assert ends.tolist() == pytest.approx(wanted, rel=1e-4)
    sample = Draws([0]).gumbel("x", 0, 100_000)
    assert abs(sample.mean().item() - 0.5772) < 4.5 * 1.2825 / 100_000**0.5


def test_a_position_read_has_the_same_normal_numbers_however_many_are_read_beside_it() -> None:
    few, many = (torch.arange(n).expand(2, -1) for n in (3, 9))
    draws = Draws([4, 5])
    short, long = (draws.normal_at("noise", 2, where, 5, 7) for where in (few, many))
    assert short.shape == (2, 3, 5, 7)
    assert torch.equal(short, long[:, :3])
    assert not torch.equal(short[0], short[1])
    assert abs(float(long.std()) - 1) < 0.15


def test_a_tape_replays_normal_numbers_by_place() -> None:
    record = torch.randn(4, 2, 6, 3, generator=keyed_generator("record"))
    where = torch.tensor([[5, 0], [1, 2]])
    got = Tape({"noise": record}, 2).normal_at("noise", 3, where, 3)
    assert torch.equal(got[0, 0], record[3, 0, 5])
    assert torch.equal(got[1, 1], record[3, 1, 2])
