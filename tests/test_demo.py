"""The demo's path end to end, at a size that takes seconds; the real one is `make demo`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unmask.demo import DemoOptions, run_demo
from unmask.evaluate.options import EvaluationOptions
from unmask.generation import generate
from unmask.pictures import to_uint8
from unmask.recipes.maskgit import FASHION
from unmask.recipes.tokenizers import FASHION_VQ
from unmask.report import write_report

LINE = re.compile(
    r"demo: class_accuracy=\d\.\d{3} fd=[\d.]+ fd_reconstruction=[\d.]+ fd_real=[\d.]+ "
    r"seconds=\d+ peak_gb=\d\.\d\d"
)


@pytest.fixture(scope="module")
def options() -> DemoOptions:
    tokenizer = replace(FASHION_VQ.training, steps=15, batch_size=16, log_every=5)
    generator = replace(
        FASHION.training, steps=8, batch_size=16, warmup_steps=2, log_every=2, preview_every=8
    )
    network = replace(FASHION.network, width=32, depth=2)
    return DemoOptions(
        tokenizer=replace(FASHION_VQ, training=tokenizer),
        recipe=replace(FASHION, training=generator, network=network),
        evaluation=EvaluationOptions(count=40, resize=64, classifier="fashion"),
    )


def test_the_demo_runs_reports_and_continues(options: DemoOptions, tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", options)
    assert LINE.fullmatch(result.line())
    assert [stage.name for stage in result.stages] == [
        "tokenizer",
        "cache",
        "generator",
        "samples",
        "scores",
    ]
    assert [row.images for row in result.scores.rows] == [40, 40, 40]
    (turn,) = generate(result.pipeline, list(range(10)), seeds=range(10), batch_size=64)
    assert torch.equal(result.samples[::10], to_uint8(turn.pixels))
    report = tmp_path / "report.html"
    write_report(result, report)
    page = report.read_text(encoding="utf8")
    assert all(name in page for name in result.pipeline.class_names)
    sources = re.findall(r'(?:src|href)="([^"]{0,10})', page)
    assert len(sources) == 23  # samples and film of ten classes, reconstructions, two curves
    assert all(source.startswith("data:image") for source in sources), "must need no other file"
    again = run_demo(tmp_path / "demo", options)
    trained = {stage.name: stage.seconds for stage in again.stages}
    assert trained["generator"] < 5
    assert torch.equal(again.samples, result.samples)
