"""The demo's report: one HTML file with every picture inside."""

from __future__ import annotations

import base64
import io
import json
from datetime import date
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from unmask import __version__
from unmask.demo import DemoResult
from unmask.files.durable import output
from unmask.files.serial import to_dict
from unmask.pictures import sheet

ZOOM = 2


def write_report(result: DemoResult, path: Path) -> None:
    """Write the report; it needs no other file to be shown."""
    template = files("unmask.assets").joinpath("report.html.j2").read_text(encoding="utf8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(template).render(**_content(result))
    with output(path) as aside:
        aside.write_text(text, encoding="utf8")


def _content(result: DemoResult) -> dict[str, object]:
    pipeline = result.pipeline
    names = pipeline.class_names
    each = len(result.samples) // len(names)
    pairs = torch.stack([result.originals, result.reconstructions], dim=1)
    halves = pairs.view(2, -1, *pairs.shape[1:]).transpose(1, 2)  # two rows of pairs
    return {
        "classes": [
            {
                "name": name,
                "samples": _png(sheet(result.samples[i * each : (i + 1) * each], each, zoom=ZOOM)),
                "film": _png(sheet(result.film[:, i], len(result.film), zoom=ZOOM)),
            }
            for i, name in enumerate(names)
        ],
        "pairs": _png(sheet(halves.flatten(0, 2), len(result.originals) // 2, zoom=ZOOM)),
        "curves": {
            "Tokenizer": _curve(result.out / "tokenizer", ("loss", "psnr")),
            "Generator": _curve(result.out / "generator", ("loss",)),
        },
        "scores": result.scores,
        "table": result.scores.table(),
        "stages": result.stages,
        "seconds": sum(stage.seconds for stage in result.stages),
        "line": result.line(),
        "parameters": sum(p.numel() for p in pipeline.model.parameters()),
        "steps": pipeline.plan.steps,
        "recipe": yaml.safe_dump(to_dict(pipeline.recipe), sort_keys=False, allow_unicode=True),
        "versions": f"unmask {__version__}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(run: Path, names: tuple[str, ...]) -> str:
    """Figures of a run's log against the step, as an SVG image."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(names), 2.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            rows = [(line["step"], line[name]) for line in lines if name in line]
            axes.plot(*zip(*rows, strict=True), color="#3056a0", linewidth=1.4)
            axes.set_xlabel("step")
            axes.set_title(name)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
