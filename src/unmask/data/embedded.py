"""The small labelled data set that the package carries, for first steps without a download."""

from __future__ import annotations

from pathlib import Path

import unmask


def fashion_mnist_10k() -> Path:
    """Folder of 8,000 training and 2,000 validation images of Fashion-MNIST, 28 x 28 grey.

    The first rows of the original files (github.com/zalandoresearch/fashion-mnist, MIT licence
    beside them); give the folder to :func:`unmask.data.source.open_source`.
    """
    return Path(unmask.__file__).parent / "assets" / "fashion_mnist_10k"
