"""The objective: who gets which gradient, revival in the loop, and that it learns."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.conv_stack import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.objective import (
    PatchDiscriminator,
    TokenizerLoss,
    TokenizerObjective,
    fooling_loss,
    judging_loss,
)
from unmask.tokenizers.vq_tokenizer import perplexity, usage

TINY = ConvVQ(image_channels=1, widths=(8, 16), blocks=(0, 1), codes=16, code_dim=4)
ADVERSARIAL = TokenizerLoss(adversarial=0.5, discriminator_width=8)


@pytest.fixture(autouse=True)
def _fixed_initial_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


def batch(count: int = 8, size: int = 16, channels: int = 1) -> tuple[torch.Tensor, None]:
    """Smooth blobs, uint8: something that a few codes can say."""
    where = torch.rand(count, channels, 2, 1, 1, generator=keyed_generator("blobs")) * size
    axis = torch.arange(float(size))
    squared = (axis.view(-1, 1) - where[:, :, 0]) ** 2 + (axis - where[:, :, 1]) ** 2
    return (255 * torch.exp(-squared / 12)).to(torch.uint8), None


def objective(options: TokenizerLoss | None = None, batch_size: int = 8) -> TokenizerObjective:
    return TokenizerObjective(ConvVQTokenizer(TINY), options, batch_size=batch_size).train()


def fit(made: TokenizerObjective, steps: int, lr: float = 4e-3) -> list[float]:
    optimizer = torch.optim.AdamW(made.parameters(), lr)
    losses = []
    for step in range(steps):
        out = made(batch())
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        made.after_step(step, keyed_generator(0, "after", step))
        losses.append(out["loss"].item())
    return losses


def test_loss_is_the_sum_of_its_parts_and_only_it_has_a_gradient() -> None:
    out = objective(TokenizerLoss(l1=0.7, l2=3.0))(batch())
    parts = ("l1", "l2", "codebook", "commitment")
    assert set(out) == {"loss", "psnr", "perplexity", *parts}
    assert out["loss"].item() == pytest.approx(sum(out[name].item() for name in parts))
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]


def test_parts_in_closed_form() -> None:
    made, (images, _) = objective(TokenizerLoss(l1=0.7, l2=3.0, commitment=0.5)), batch()
    real = images.float() / 255
    output = made.averaged(real)
    out = made((images, None))
    difference = output.images - real
    assert out["l1"].item() == pytest.approx(0.7 * difference.abs().mean().item(), rel=1e-5)
    assert out["l2"].item() == pytest.approx(3 * difference.square().mean().item(), rel=1e-5)
    assert out["commitment"].item() == pytest.approx(0.5 * out["codebook"].item(), rel=1e-5)
    mse = (output.images.clamp(0, 1) - real).square().mean().item()
    assert out["psnr"].item() == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    wanted = perplexity(usage(output.ids, 16)).item()
    assert out["perplexity"].item() == pytest.approx(wanted)


def test_micro_batches_add_up_to_the_step() -> None:
    made, (images, _) = objective(), batch()
    whole = made((images, None))
    whole["loss"].backward()
    wanted = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    parts = [made((images[rows], None)) for rows in (slice(0, 2), slice(2, 8))]
    sum(part["loss"] for part in parts).backward()
    for name in ("loss", "l1", "codebook"):
        total = sum(part[name].item() for part in parts)
        assert total == pytest.approx(whole[name].item(), rel=1e-5)
    for name, parameter in made.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    judge = PatchDiscriminator(1, width=8)
    real, made = torch.rand(2, 4, 1, 16, 16, generator=keyed_generator("game"))
    made.requires_grad_()
    fooling_loss(judge, made).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    made.grad = None
    judging_loss(judge, real, made).backward()
    assert made.grad is None
    # all but the last bias, whose pulls by real and made cancel while neither is far off
    assert all(p.grad.abs().sum() > 0 for p in list(judge.parameters())[:-1])


def test_one_backward_equals_two_optimisers() -> None:
    made, (images, _) = objective(ADVERSARIAL), batch()
    made((images, None))["loss"].backward()
    together = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    real = images.float() / 255
    output = made.averaged(real)
    judge = made.discriminator
    assert judge is not None
    penalties = output.penalties
    first = (output.images - real).abs().mean() - 0.5 * judge(output.images).mean()
    first = first + penalties["codebook"] + 0.25 * penalties["commitment"]
    players = {"averaged": first, "discriminator": judging_loss(judge, real, output.images)}
    for prefix, loss in players.items():
        names = [n for n, _ in made.named_parameters() if n.startswith(prefix)]
        own = [made.get_parameter(n) for n in names]
        for name, grad in zip(
            names, torch.autograd.grad(loss, own, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(together[name], grad, rtol=1e-4, atol=1e-7)


def test_hinge_loss_in_closed_form() -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))

    real, made = torch.full((2, 1, 4, 4), 0.75), torch.full((2, 1, 4, 4), -3.0)
    assert judging_loss(Mean(), real, made).item() == pytest.approx(0.125)  # 0.5 * (0.25 + 0)
    assert judging_loss(Mean(), made, real).item() == pytest.approx(0.5 * (4 + 1.75))
    assert fooling_loss(Mean(), made).item() == pytest.approx(3)


def test_the_game_starts_at_its_step() -> None:
    made = objective(replace(ADVERSARIAL, adversarial_start=2))
    played = []
    for step in range(4):
        played.append(made(batch())["judge"].item() > 0)
        made.after_step(step, keyed_generator(step))
    assert played == [False, False, True, True]
    resumed = objective(replace(ADVERSARIAL, adversarial_start=2))
    resumed.load_state_dict(made.state_dict())
    assert resumed(batch())["judge"].item() > 0, "the count is part of the saved state"


def test_discriminator_scores_patches_of_one_image_at_a_time() -> None:
    judge = PatchDiscriminator(1, width=8)
    images = batch()[0].float() / 255
    scores = judge(images)
    assert scores.shape == (8, 1, 4, 4)
    torch.testing.assert_close(judge(images[2:3]), scores[2:3])


def test_first_step_starts_the_codebook_from_data() -> None:
    made = objective()
    out = made.averaged(batch()[0].float() / 255)
    made(batch())
    made.after_step(0, keyed_generator(0))
    latents = out.latents.detach().reshape(-1, 4)
    book = made.averaged.quantizer.codebook.detach()
    unused = torch.ones(16, dtype=torch.bool)
    unused[out.ids.unique()] = False
    assert 0 < unused.sum() < 16
    copied = (book.unsqueeze(1) == latents).all(-1).any(1)
    assert torch.equal(copied, unused)


@pytest.mark.parametrize(("every", "expected"), [(3, [0, 3, 6]), (0, [])])
def test_revival_keeps_its_rhythm(
    every: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, revived = objective(TokenizerLoss(revive_every=every)), []
    quantizer = made.averaged.quantizer
    for step in range(8):
        monkeypatch.setattr(quantizer, "revive", lambda *_, step=step, **__: revived.append(step))
        made(batch())
        made.after_step(step, keyed_generator(step))
    assert revived == expected


def test_every_micro_batch_counts_as_use() -> None:
    made, (images, _) = objective(TokenizerLoss(revive_every=0)), batch()
    ids = [made.averaged(images[rows].float() / 255).ids for rows in ([0], [5])]
    for rows in ([0], [5]):
        made((images[rows], None))
    made.after_step(0, keyed_generator(0))
    used = (made.averaged.quantizer.idle == 0).nonzero().flatten()
    assert torch.equal(used, torch.cat([i.flatten() for i in ids]).unique())


def test_evaluation_leaves_no_trace() -> None:
    made = objective().eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made(batch())
    made.after_step(4, keyed_generator(0))
    changed = [n for n, v in made.state_dict().items() if not torch.equal(v, before[n])]
    assert changed == ["progress"]


def test_overfits_one_batch() -> None:
    made = objective()
    losses = fit(made, 150)
    assert losses[-1] < 0.3 * losses[0]
    out = made(batch())
    assert out["psnr"].item() > 24
    assert out["perplexity"].item() > 5


def test_overfits_with_a_discriminator_in_the_same_loop() -> None:
    made = objective(replace(ADVERSARIAL, adversarial=0.02))
    fit(made, 150)
    assert made(batch())["psnr"].item() > 22


def test_perceptual_term_sees_blur_and_trains_the_tokenizer_only() -> None:
    made = objective(TokenizerLoss(perceptual=1.0))
    assert made.perceptual is not None
    assert not made.perceptual.training, "stays in evaluation mode"
    images = batch(2, 32)[0].float() / 255
    blurred = torch.nn.functional.avg_pool2d(images, 5, 1, 2)
    assert made.perceptual(images, images).item() == 0
    slightly = made.perceptual(0.9 * images + 0.1 * blurred, images).item()
    assert 0 < slightly < made.perceptual(blurred, images).item()
    out = made((batch(2, 32)[0], None))
    out["loss"].backward()
    assert out["perceptual"].item() > 0
    assert all(p.grad is None for p in made.perceptual.parameters())
    assert made.averaged.encoder[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, "loss.l1=-1.0 must be at least 0"),
        ({"l1": 0.0}, "loss.l1, l2 and perceptual are all 0"),
        ({"patience": 0}, "loss.patience=0 must be at least 1"),
    ],
)
def test_impossible_weights_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenizerLoss(**options)
