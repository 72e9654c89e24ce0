"""Revival with two processes, each with images of its own."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unmask.draws import keyed_generator
from unmask.tokenizers.conv_stack import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.objective import TokenizerObjective

TINY = ConvVQ(image_channels=1, widths=(8, 8), blocks=(0, 0), codes=64, code_dim=4)


def objective() -> TokenizerObjective:
    made = TokenizerObjective(ConvVQTokenizer(TINY), batch_size=4)
    generator = keyed_generator("weights")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.train()


def images(rank: int) -> torch.Tensor:
    generator = keyed_generator("images", rank)
    return torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8, generator=generator)


def run_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    made = objective()
    made((images(rank), None))
    made.after_step(0, keyed_generator(0, "after"))
    torch.save(made.averaged.quantizer.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_codebooks_stay_equal_and_use_is_counted_everywhere(tmp_path: Path) -> None:
    mp.spawn(run_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["codebook"], second["codebook"])
    assert torch.equal(first["idle"], second["idle"])
    made = objective()
    before = made.averaged.quantizer.codebook.detach()
    outputs = [made.averaged(images(rank).float() / 255) for rank in (0, 1)]
    used = torch.cat([output.ids.flatten() for output in outputs]).unique()
    assert len(used) > len(outputs[0].ids.unique()), "both add to the use"
    kept = (first["codebook"] == before).all(-1)
    assert torch.equal(kept.nonzero().flatten(), used)
    latents = torch.cat([output.latents.detach().reshape(-1, 4) for output in outputs])
    revived = first["codebook"][~kept].unsqueeze(1)
    found = torch.isclose(revived, latents, rtol=1e-5, atol=1e-6).all(-1).any(1)  # other threads
    assert found.all(), "dead codes become latents of the batch"
