"""The command line: names a command, loads its module, and turns mistakes into one line.

Only the chosen command is imported, so that help is instant.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from unmask.machine import signals

REFUSED, CLOSED_PIPE = 2, 141  # exit statuses; the last as shells count

ALIKE = 5.0  # seconds in which a launcher ends all processes after one

# What only a wrong call causes; disks, folders, networks and limits are behind any other OSError.
BUGS = (errno.EBADF, errno.EFAULT, errno.EINVAL)

COMMANDS: dict[str, str] = {
    "demo": "train, sample and judge a small MaskGIT on embedded images; writes report.html",
    "sample": "generate images with a model folder, a run or a shipped model",
    "train": "train a masked image generator on your images",
    "tokenizer": "train a small tokenizer, or judge several side by side",
    "cache": "build, describe or verify a cache of encoded images",
    "eval": "judge a model or a folder of images against real ones",
    "probe": "judge MAGE's features by a linear classifier",
    "finetune": "train MAGE's encoder to name classes",
    "images": "write real images cut to one size, as references for evaluators",
    "features": "write MAGE's features of a data set, with nearest-neighbour accuracy",
    "convert": "turn a published checkpoint into a model folder",
    "takeover": "go on with the training of a source project as a run of this library",
    "export": "write a model's weights in the files of the project it comes from",
    "estimate": "count memory, operations and hours of a training before GPUs are rented",
    "recipes": "list the systems this library knows, with their published results",
}

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
        The exit status: 0; 2 after a mistake that was reported in one line; 130 after Ctrl-C, 143
        after SIGTERM; 141 when the reader of the output went away.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            with signals.listening():
                return _reported(words)
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be answered
    except BrokenPipeError:
        _silence(sys.stdout, sys.stderr)
        return CLOSED_PIPE
    except KeyboardInterrupt as end:
        return signals.leave(end)


def _reported(words: Sequence[str]) -> int:
    """Run the command that the words name; what people or machines cause is said in one line."""
    from unmask.errors import InputError, SaidError, is_out_of_memory

    try:
        _run(words)
    except SaidError:
        return REFUSED
    except InputError as error:
        return _refusal(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in BUGS:
            raise
        what = f" {error.filename}" if error.filename else ""
        return _refusal(f"cannot use{what}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _refusal(
            "this machine's memory is too small for what was asked; "
            "take smaller batches, images or networks"
        )
    return 0


def _run(words: Sequence[str]) -> None:
    from unmask.errors import pick

    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
    elif words[0] in ("--version", "version"):
        from unmask import __version__

        print(__version__)
    else:
        pick(COMMANDS, words[0], "command")
        with signals.postponed():  # an import that is broken off may break the interpreter
            command = importlib.import_module(f"unmask.commands.{words[0]}")
        command.main(words[1:])


def _refusal(line: str) -> int:
    """Say a mistake in one line; what all processes of a launcher see, only the main one says.

    The launcher ends the others when the main process has ended, so they give it time to.
    """
    from unmask.text import say

    if os.environ.get("RANK", "0") != "0":
        time.sleep(ALIKE)
    say(f"unmask: error: {line}", error=True)
    return REFUSED


def _silence(*streams: TextIO) -> None:
    """What is still in their buffers goes nowhere, so that leaving does not fail on it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with suppress(OSError, ValueError):  # a stream of a test has no file behind it
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
