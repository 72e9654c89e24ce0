"""The command line: names a command, loads its module, and turns mistakes into one line.

Only the chosen command is imported, so that help is instant.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "demo": "train, sample and judge a small MaskGIT on embedded images; writes report.html",
    "sample": "generate images with a model folder, a run or a shipped model",
    "train": "train a masked image generator on your images",
    "tokenizer": "train a small tokenizer, or judge several side by side",
    "cache": "build, describe or verify a cache of encoded images",
    "eval": "judge a model or a folder of images against real ones",
    "probe": "judge MAGE's features by a linear classifier",
    "finetune": "train MAGE's encoder to name classes",
    "features": "write MAGE's features of a data set, with nearest-neighbour accuracy",
    "convert": "turn a published checkpoint into a model folder",
    "recipes": "list the systems this library knows, with their published results",
}

# What a disk or a folder refuses, wherever it happens; any other OSError is a bug.
REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
)

HELP = """\
unmask: masked image generation in one PyTorch library.

usage: unmask COMMAND [ARGUMENTS]      unmask COMMAND --help shows a command's arguments

{commands}

From images to images:
  unmask tokenizer train fashion-vq --data IMAGES --out runs/tokenizer
  unmask train fashion-maskgit --data IMAGES --tokenizer runs/tokenizer --out runs/maskgit
  unmask sample runs/maskgit --out samples
  unmask eval runs/maskgit --data IMAGES
At once, with shipped weights:
  unmask sample fashion-maskgit --classes Bag Sneaker --film"""


def help_text() -> str:
    """What ``unmask --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, line in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: None means the process's own.

    Returns:
        The exit status: 0, or 2 after a mistake that was reported in one line.
    """
    from unmask.errors import InputError, did_you_mean

    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] in ("--version", "version"):
        from unmask import __version__

        print(__version__)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(f"unknown command {words[0]!r}; {did_you_mean(words[0], COMMANDS)}")
        command = importlib.import_module(f"unmask.commands.{words[0]}")
        command.main(words[1:])
    except InputError as error:
        print(f"unmask: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        what = f" {error.filename}" if error.filename else ""
        print(f"unmask: error: cannot use{what}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unmask: interrupted; finished checkpoints and shards are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
