"""Fine-tuning of encoder and head together (MAGE, ``main_finetune.py``)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.classifier import Classifier
from unmask.probe.encoder import TokenClassifier, build_head, initialize_head
from unmask.probe.mixing import MixedBatches
from unmask.probe.settings import FinetuneOptions
from unmask.probe.training import ClassifierObjective, ClassifierRun, LabelledData, check_head
from unmask.train.optim import adamw


def layer_decay_groups(
    model: TokenClassifier, *, layer_decay: float, weight_decay: float
) -> list[dict[str, object]]:
    """Trainable parameters by learning rate and weight decay (BEiT; MAGE, ``util/lr_decay.py``).

    With N blocks, layer i of 0 (the embedding) to N + 1 (last norm and head) has the factor
    ``layer_decay ** (N + 1 - i)``. One-dimensional tensors are not decayed; tables are.

    Args:
        model: with a head.
        layer_decay: factor from one layer to the one before it; 1 means equal rates.
        weight_decay: weight decay of matrices and tables.

    Returns:
        Groups with ``lr_scale`` and ``weight_decay``, in order of first appearance.
    """
    encoder, head = model.encoder, model.head
    assert head is not None, "what names no classes is not trained"
    layers: list[list[nn.Module]] = [[encoder.embed], *([block] for block in encoder.blocks)]
    layers.append([encoder.norm, head])
    groups: list[dict[str, object]] = []
    for index, modules in enumerate(layers):
        found = [p for module in modules for p in module.parameters() if p.requires_grad]
        scale = layer_decay ** (len(layers) - 1 - index)
        for decay, flat in ((0.0, True), (weight_decay, False)):
            if params := [p for p in found if (p.ndim == 1) is flat]:
                groups.append({"params": params, "lr_scale": scale, "weight_decay": decay})
    return groups


def finetune(
    classifier: Classifier,
    data: LabelledData,
    options: FinetuneOptions,
    *,
    out: Path,
    from_scratch: bool = False,
) -> list[dict[str, float]]:
    """Train encoder and head together; continues by itself what ``out`` holds.

    Args:
        classifier: with the encoder.
        data: what is learnt from and what is judged on.
        options: how.
        out: the run folder.
        from_scratch: see :func:`unmask.train.loop.train`.

    Returns:
        The lines of ``accuracy.jsonl``, one an epoch.

    Raises:
        InputError: mixing asked of codes, a head of another number of classes; see also
            :class:`unmask.probe.training.ClassifierRun`.
    """
    mixing, encoder, head = options.mixing, classifier.model.encoder, classifier.model.head
    if data.cache is not None and mixing.on:
        raise InputError(
            "images are mixed before they are tokenised; with --cache give --mixing.mixup 0 "
            "--mixing.cutmix 0"
        )
    if head is None or options.new_head:
        head = build_head(encoder.sizes.width, len(data.train.class_names), normed=False)
        initialize_head(head, keyed_generator(options.seed, "head"))
    model = TokenClassifier(encoder, head).requires_grad_(True)
    check_head(model, data.train)
    run = ClassifierRun(classifier, data, options, out)
    encoder.set_drop_path(options.drop_path)
    groups = partial(layer_decay_groups, model, layer_decay=options.layer_decay)
    objective = ClassifierObjective(
        model,
        nn.Identity() if data.cache else run.encode,
        batch_size=options.batch_size,
        smoothing=options.smoothing,
        optimizer=lambda training: adamw(groups(weight_decay=training.weight_decay), training),
    )
    batches = MixedBatches(run.batches, mixing) if mixing.on else run.batches
    return run.train(objective, batches, run.encode, model=model, from_scratch=from_scratch)
