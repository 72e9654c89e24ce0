"""Docstrings read alone: each says what it is about, and options say it in a sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import unmask

ROOT = Path(unmask.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
LEANING = re.compile(r"(Of|Its|Likewise|Which|The same|As above|Theirs|Ditto)\b")
OPENING = re.compile(r'[A-Z0-9`"(]')
OPTIONS = "Ranged"


class Told(NamedTuple):
    """A docstring and where it stands."""

    where: str
    text: str | None


def texts(body: list[ast.stmt]) -> Iterator[tuple[ast.AnnAssign, str | None]]:
    """Annotated names of a body with the string behind each."""
    for node, behind in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            text = None
            if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
                text = behind.value.value if isinstance(behind.value.value, str) else None
            yield node, text


def docstrings(file: Path) -> Iterator[Told]:
    """Docstrings of a module, its classes, functions and annotated names."""
    tree = ast.parse(file.read_text(encoding="utf8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield Told(getattr(node, "name", "module"), ast.get_docstring(node))
        if isinstance(node, ast.Module | ast.ClassDef):
            for field, text in texts(node.body):
                yield Told(f"{getattr(node, 'name', '')}.{ast.unparse(field.target)}", text)


def option_classes() -> dict[str, ast.ClassDef]:
    """Dataclasses whose ranges are checked: what the command line and YAML files set."""
    classes = {
        f"{file.relative_to(ROOT)}:{node.name}": node
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8")))
        if isinstance(node, ast.ClassDef)
    }

    by_name = {node.name: node for node in classes.values()}

    def ranged(node: ast.ClassDef) -> bool:
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return OPTIONS in bases or any(b in by_name and ranged(by_name[b]) for b in bases)

    return {name: node for name, node in classes.items() if ranged(node)}


CLASSES = option_classes()


@pytest.mark.parametrize("name", NAMES)
def test_no_docstring_leans_on_its_neighbour(name: str) -> None:
    leaning = [t.where for t in docstrings(ROOT / name) if t.text and LEANING.match(t.text)]
    assert not leaning


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_option_is_a_sentence(name: str) -> None:
    fields = {
        ast.unparse(field.target): " ".join((text or "").split())
        for field, text in texts(CLASSES[name].body)
        if "ClassVar" not in ast.unparse(field.annotation)
    }
    public = {field: text for field, text in fields.items() if not field.startswith("_")}
    wrong = {f: t for f, t in public.items() if not (OPENING.match(t) and t.endswith("."))}
    assert not wrong
