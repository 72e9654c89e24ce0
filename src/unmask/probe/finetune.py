"""Fine-tuning of encoder and head together (MAGE, ``main_finetune.py``)."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.optim import AdamW

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.classifier import TokenClassifier, build_head, initialize_head
from unmask.probe.judge import Score, score
from unmask.probe.layer_decay import layer_decay_groups
from unmask.probe.objective import ClassifierObjective
from unmask.probe.run import Bench, LabelledData, Outcome
from unmask.probe.settings import FinetuneOptions
from unmask.probe.subject import Subject
from unmask.train.optim import adamw
from unmask.train.settings import Training


def finetune(
    subject: Subject, data: LabelledData, options: FinetuneOptions, *, out: Path
) -> Outcome:
    """Train encoder and head together; continues by itself what ``out`` holds.

    Raises:
        InputError: see :class:`unmask.probe.run.Bench` and :func:`unmask.train.loop.train`; also
            mixing asked of codes, or a head of another number of classes.
    """
    if data.cache is not None and options.mixing.on:
        raise InputError(
            "images are mixed before they are tokenised; with --cache give --mixing.mixup 0 "
            "--mixing.cutmix 0"
        )
    head = head_of(subject, data, options)
    bench = Bench(subject, data, options, out=out)
    batches = bench.batches(options.mixing)
    bench.encoder.set_drop_path(options.drop_path)
    model = TokenClassifier(bench.encoder, head).requires_grad_(True)

    def optimizer(settings: Training) -> AdamW:
        groups = layer_decay_groups(
            model, layer_decay=options.layer_decay, weight_decay=settings.weight_decay
        )
        return adamw(groups, settings)

    objective = ClassifierObjective(
        model,
        bench.encode if data.cache is None else nn.Identity(),
        batch_size=options.batch_size,
        smoothing=options.smoothing,
        optimizer=optimizer,
    )
    return bench.run(
        objective, batches, bench.held_out(bench.encode), out=out, save=bench.saver(model)
    )


def head_of(subject: Subject, data: LabelledData, options: FinetuneOptions) -> nn.Module:
    """The classifier's own head, or a new one.

    Raises:
        InputError: a head of another number of classes.
    """
    classes, classifier = len(data.class_names), subject.classifier
    if classifier is not None and not options.new_head:
        check_head(subject, data)
        return classifier.model.head
    head = build_head(subject.encoder.sizes.width, classes, normed=False)
    initialize_head(head, keyed_generator(options.seed, "head"))
    return head


def check_head(subject: Subject, data: LabelledData) -> None:
    """Refuse a head of other classes than the data's.

    Raises:
        InputError: naming both numbers; also when there is no head.
    """
    classes = len(data.class_names)
    if subject.classifier is None:
        raise InputError(f"{subject.name} names no classes yet; fine-tune it first")
    if subject.classifier.classes != classes:
        raise InputError(
            f"the head of {subject.name} has {subject.classifier.classes} classes, the data "
            f"{classes}; give --new-head to start another"
        )


def judge(subject: Subject, data: LabelledData, options: FinetuneOptions) -> Score:
    """What a classifier is worth as it is, on the held-out images.

    Raises:
        InputError: see :func:`check_head` and :class:`unmask.probe.run.Bench`.
    """
    check_head(subject, data)
    assert subject.classifier is not None, "checked above"
    bench = Bench(subject, data, options)
    model = subject.classifier.model.to(bench.state.device).eval()
    return score(model, bench.held_out(bench.encode), classes=len(bench.names))
