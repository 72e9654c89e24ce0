"""What travels with the package: demonstration data and small trained weights."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def shipped_folder(name: str) -> Path | None:
    """The folder of shipped weights of that name, if there is one."""
    folder = HERE / "weights" / name
    return folder if name and "/" not in name and folder.is_dir() else None


def shipped_names() -> list[str]:
    """Every name that :func:`shipped_folder` knows."""
    return sorted(folder.name for folder in (HERE / "weights").glob("*") if folder.is_dir())
