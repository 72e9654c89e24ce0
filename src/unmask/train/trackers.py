"""Threads in which trackers write."""

from __future__ import annotations

import threading

PACKAGE = "tensorboard."  # whose writer raises again, at the next figure, what ended its thread


def hush_writers() -> None:
    """Keep a tracker's thread from printing a traceback when the disk refuses what it writes.

    The refusal is not lost: the tracker raises it where the next figure is written.
    """
    usual = threading.excepthook
    if getattr(usual, "hushes", False):
        return

    def hook(failure: threading.ExceptHookArgs) -> None:
        """Report what ended a thread, unless it is a refusal that will be raised again."""
        theirs = type(failure.thread).__module__.startswith(PACKAGE)
        if not (theirs and issubclass(failure.exc_type, OSError)):
            usual(failure)

    hook.hushes = True  # type: ignore[attr-defined]
    threading.excepthook = hook
