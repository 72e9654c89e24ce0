"""The diffusion head of MAR and eMIGM: network, process and solvers.

:func:`process_tables` and :func:`solver_tables` give the head's part of the two ``tables`` kinds.
"""

from __future__ import annotations

import torch
from golden import Case
from tape import Tape
from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import load_state
from unmask.nn import dpm_solver
from unmask.nn.diffusion import DiffusionDraw, DiffusionHead, embed_waves, frequencies
from unmask.nn.gaussian import process
from unmask.nn.guided import guided
from unmask.projects.mar import HEAD_TABLE
from unmask.types import Reading


def head_of(case: Case) -> DiffusionHead:
    """The case's head with its weights; those of a trunk beside it are left aside."""
    state = {k: v for k, v in case.weights().items() if k.startswith("diffloss.")}
    own = to_own(state, HEAD_TABLE, case.name)
    head = DiffusionHead(
        case.config["token_embed_dim"],
        state["diffloss.net.cond_embed.weight"].shape[1],
        width=case.config["diffloss_w"],
        depth=case.config["diffloss_d"],
    )
    case.told(z_channels=head.condition.in_features)
    load_state(head, {name.removeprefix("head."): v for name, v in own.items()}, case.name)
    return head.eval()


def branches(z: Tensor, scale: float, rows: int) -> tuple[Tensor, list[Tensor]]:
    """``(G, N, D)`` features and ``(N,)`` scales of a case's ``(2 N, D)``; scale 1 is the plain."""
    features = z.view(-1, rows, z.shape[-1])
    return (features[:1], []) if scale == 1 else (features, [torch.full((rows,), scale)])


def drawn(
    head: DiffusionHead,
    features: Tensor,
    scales: list[Tensor],
    noise: Tensor,
    options: DiffusionDraw,
) -> Tensor:
    """``(N, C)`` by the public way, every row an image of one token."""
    strong, *weak = features.unsqueeze(2).unbind(0)
    where = torch.zeros(len(noise), 1, dtype=torch.long)
    tape = Tape({"diffusion": noise[None, :, None]}, len(noise))
    reading = Reading(strong, where, 1, 0, weak, scales)
    return head.draw(reading, options, tape).values.squeeze(1)


@torch.inference_mode()
def head_sample(case: Case) -> dict[str, Tensor]:
    head, config = head_of(case), case.config
    z, first, fresh = case.input("z"), case.input("init_noise"), case.input("step_noise")
    noise = torch.stack([first, *fresh[:-1]], dim=1)  # (N, S, C); the last is never used
    options = DiffusionDraw(
        respacing=str(config["num_sampling_steps"]), temperature=config.get("temperature", 1.0)
    )
    if "timestep_map" in config:
        assert process(options.respacing).times.tolist() == config["timestep_map"]
    net_t = case.input("net_t")
    count = len(net_t)
    found = {
        "time_embed": head.embed_times(net_t),
        "net_out": head.predict_at(first[:count], net_t, z[:count]),
    }
    for tag, scale in (("cfg", config["cfg"]), ("nocfg", 1.0)):
        features, scales = branches(z, scale, len(first))
        states = list(head.denoise(features, scales, noise=noise, options=options))
        trajectory = torch.stack([first, *states])
        found[f"trajectory_{tag}"] = trajectory[1:]
        found[f"pred_x0_{tag}"] = one_step(head, features, scales, trajectory[:-1], options)[1]
        found[f"sample_{tag}"] = drawn(head, features, scales, noise, options)
    features, scales = branches(z, config["cfg"], len(first))
    mean, clean, log_variance = one_step(head, features, scales, case.input("step_x"), options)
    return found | {"step_mean": mean, "step_pred_x0": clean, "step_log_variance": log_variance}


def one_step(
    head: DiffusionHead,
    features: Tensor,
    scales: list[Tensor],
    states: Tensor,
    options: DiffusionDraw,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(S, N, C)`` mean, clean prediction and log variance of each step, from free states."""
    path, results = process(options.respacing), []
    for k, (stage, x) in enumerate(zip(options.stages(), states, strict=True)):
        times = torch.full(features.shape[:2], stage.time)
        noise, v = head.predict_at(x, times, features).chunk(2, dim=-1)
        e = guided(noise[0], noise[1:].unbind(0), scales)
        at = len(states) - 1 - k
        clean = path.clean_state[at].float() * x - path.clean_noise[at].float() * e
        upper, lower = path.betas[at].log(), path.posterior_log_variance[at]
        log_variance = (v[0] + 1) / 2 * (upper - lower) + lower
        results.append((stage.state * x + stage.noises[0] * e, clean, log_variance))
    mean, clean, log_variance = (torch.stack(column) for column in zip(*results, strict=True))
    return mean, clean, log_variance.float()


@torch.inference_mode()
def head_dpm(case: Case) -> dict[str, Tensor]:
    head, first = head_of(case), case.input("init_noise")
    case.told(order=3, skip_type="logSNR", method="singlestep")
    case.told(algorithm="dpmsolver++", solver_type="dpmsolver")
    noise = first.unsqueeze(1)
    found = {}
    for run in case.config["runs"]:
        options = DiffusionDraw(solver="dpm-solver", respacing=str(run["steps"]))
        features, scales = branches(case.input("z"), run["cfg"], len(first))
        states = list(head.denoise(features, scales, noise=noise, options=options))
        found[f"trajectory_{run['tag']}"] = torch.stack(states)
        found[f"sample_{run['tag']}"] = drawn(head, features, scales, noise, options)
        times = [stage.time for stage in options.stages()]
        found[f"net_times_{run['tag']}"] = torch.tensor(times)
    return found


def waves(case: Case) -> Tensor:
    """The embedding of times, each frequency to its last place.

    Processors round float32 ``exp`` differently there, and step 999 makes 6e-5 of it, more than
    the tolerance: the frequency or one of its two neighbours must reproduce the data.
    """
    times, expected = case.input("t_embed_in"), case.input("t_embed_out")
    ours, half = embed_waves(times), frequencies()
    count = len(half)
    assert torch.equal(ours[:, :count], (times[:, None] * half).cos())
    choices = [half, half.nextafter(torch.ones(())), half.nextafter(torch.zeros(()))]
    angles = times[:, None] * torch.stack(choices).unsqueeze(1)  # (3, T, 128)
    embedded = torch.stack([angles.cos(), angles.sin()], dim=2)  # (3, T, 2, 128)
    error = (embedded - expected.unflatten(1, (2, count))).abs().amax((1, 2))  # (3, 128)
    nearest = error.argmin(0).expand(1, *embedded.shape[1:])
    return embedded.gather(0, nearest).flatten(2).squeeze(0)


def process_tables(case: Case) -> dict[str, Tensor]:
    """What ``mar.tables`` holds about the diffusion process."""
    found = {"t_embed_out": waves(case)}
    for tag, text in case.config["respacing_strings"].items():
        path = process(text)
        found |= {
            f"betas.{tag}": path.betas,
            f"timestep_map.{tag}": path.times,
            f"alphas_cumprod.{tag}": path.signal,
            f"alphas_cumprod_prev.{tag}": path.signal_before,
            f"posterior_variance.{tag}": path.posterior_variance,
            f"posterior_log_variance_clipped.{tag}": path.posterior_log_variance,
            f"posterior_mean_coef1.{tag}": path.posterior_clean,
            f"posterior_mean_coef2.{tag}": path.posterior_state,
            f"sqrt_recip_alphas_cumprod.{tag}": path.clean_state,
            f"sqrt_recipm1_alphas_cumprod.{tag}": path.clean_noise,
        }
    return found


def solver_tables(case: Case) -> dict[str, Tensor]:
    """What ``emigm.tables`` holds about the solver."""
    probe = case.input("time_probe")
    found = {
        "log_alpha_array": dpm_solver.knots().log_alphas,
        "lambda_probe": dpm_solver.half_log_snr(probe),
        "alpha_probe": dpm_solver.log_alpha(probe).exp(),
        "sigma_probe": dpm_solver.sigma(probe),
        "inverse_lambda_probe": dpm_solver.time_at(dpm_solver.half_log_snr(probe)),
        "model_time_probe": dpm_solver.network_time(probe),
    }
    for steps, orders in case.config["singlestep_orders"].items():
        assert dpm_solver.orders(int(steps)) == orders
        times = dpm_solver.step_times(int(steps))
        found[f"outer_times.{steps}"] = times
        places = torch.full((2, len(orders)), -1.0)
        for k, order in enumerate(orders):
            inner = dpm_solver.ratios(times[k], times[k + 1], order)[:-1]
            places[: order - 1, k] = inner
        found[f"r1.{steps}"], found[f"r2.{steps}"] = places
    return found


HANDLERS = {
    "mar.head_sample": head_sample,
    "emigm.head_dpm": head_dpm,
}
