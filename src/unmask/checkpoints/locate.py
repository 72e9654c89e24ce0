"""Where a name leads: a folder, a finished run, shipped weights, or a hub repository."""

from __future__ import annotations

from pathlib import Path

from unmask.assets import shipped_folder, shipped_names
from unmask.checkpoints.store import CONFIG
from unmask.errors import InputError

EXPORT = "model"  # the folder inside a run that holds what it made


def find_folder(name: str | Path) -> Path:
    """The saved model or tokenizer of that name.

    Args:
        name: a folder that holds one; a run, whose export is meant; a name of
            ``unmask.assets.shipped_names()``; or a hub repository ``owner/name``.

    Raises:
        InputError: when there is none.
    """
    folder = Path(name)
    for candidate in (folder, folder / EXPORT):
        if (candidate / CONFIG).is_file():
            return candidate
    if shipped := shipped_folder(str(name)):
        return shipped
    if folder.exists():
        raise InputError(f"{name} holds neither {CONFIG} nor {EXPORT}/: no model and no ended run")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        return _from_hub(str(name))
    shipped_list = ", ".join(shipped_names()) or "none"
    raise InputError(f"nothing is saved at {str(name)!r}; shipped: {shipped_list}")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{name!r} is no folder here, and the hub says: {reason}") from error
