"""Golden cases: how they are found, read and compared.

A case is ``<case>.json`` with ``<case>.io.safetensors`` and weights under the source project's own
key names; ``kind`` says what is computed. A handler computes a case::

    def logits(case: Case) -> dict[str, Tensor]: ...   # outputs by their golden names

    HANDLERS = {"maskgit_pytorch.logits": logits}

Every ``handlers/*.py`` is found by itself. Outputs that a case lacks are not compared; tensors that
nobody read or returned give a warning.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

NARROW = {torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
INFORMATIVE = ("seeded_*",)  # outputs that depend on the torch build
HANDLER_FOLDER = Path(__file__).parent / "handlers"


class Tolerance(NamedTuple):
    """|a - b| <= atol + rtol |b|; both zero means equal."""

    atol: float
    rtol: float
    skip: bool = False


EXACT = Tolerance(0.0, 0.0)
USUAL = Tolerance(1e-6, 1e-5)


def parse_tolerance(rule: object) -> Tolerance:
    """A tolerance from a JSON rule: a scalar (absolute), a mapping, or prose."""
    if isinstance(rule, str):
        return EXACT._replace(skip="otherwise skip" in rule)
    if isinstance(rule, (int, float)):
        return Tolerance(float(rule), 0.0)
    assert isinstance(rule, Mapping), f"unknown tolerance {rule!r}"
    if "atol" in rule or "rtol" in rule:
        return Tolerance(float(rule.get("atol", 0.0)), float(rule.get("rtol", 0.0)))
    return parse_tolerance(rule["floats"]) if "floats" in rule else USUAL


@dataclass
class Case:
    """One golden case."""

    path: Path
    spec: dict
    used: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """What is computed, ``<source>.<what>``."""
        return self.spec["kind"]

    @property
    def config(self) -> dict:
        """The source project's own configuration of the network."""
        return self.spec["config"]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the io file, inputs and outputs; empty when there is none."""
        path = self.path.with_name(self.spec.get("io") or f"{self.name}.io.safetensors")
        return load_file(path) if path.exists() else {}

    def has(self, name: str) -> bool:
        """Whether the io file holds ``name``."""
        return name in self.tensors

    def input(self, name: str) -> Tensor:
        """An input that every case of the kind has."""
        self.used.add(name)
        return self.tensors[name]

    def maybe(self, name: str) -> Tensor | None:
        """An input that a case may lack."""
        return self.input(name) if name in self.tensors else None

    def names(self, pattern: str) -> list[str]:
        """Names in the io file that match a wildcard, sorted."""
        return sorted(n for n in self.tensors if fnmatchcase(n, pattern))

    def leave(self, *patterns: str) -> None:
        """Say that these tensors are knowingly not compared."""
        self.used.update(n for pattern in patterns for n in self.names(pattern))

    def file(self) -> Path:
        """The foreign file that the case is about."""
        return self.path.with_name(self.spec["input_file"])

    def weights(self) -> dict[str, Tensor]:
        """Weights under the source's key names, narrow floats widened to float32."""
        state: dict[str, Tensor] = {}
        for path, prefix in self._weight_files():
            state |= {prefix + key: value for key, value in load_file(path).items()}
        return {k: v.float() if v.dtype in NARROW else v for k, v in state.items()}

    def _weight_files(self) -> list[tuple[Path, str]]:
        if "weights" in self.spec:
            entries = self.spec["weights"] or []
            entries = [entries] if isinstance(entries, (str, dict)) else entries
            pairs = [(e, "") if isinstance(e, str) else (e["file"], e["prefix"]) for e in entries]
            return [(self.path.with_name(name), prefix) for name, prefix in pairs]
        own = self.path.with_name(f"{self.name}.weights.safetensors")
        if own.exists() or "weights_case" not in self.spec:
            return [(own, "")] if own.exists() else []
        return [(self.path.with_name(f"{self.spec['weights_case']}.weights.safetensors"), "")]

    def tolerance(self, name: str) -> Tolerance:
        """The rule for one output: exact names first, then wildcards, then the general rule."""
        general = self.spec.get("tolerance", {})
        overrides = self.spec.get("tolerance_overrides", {})
        for rules in (overrides, general):
            if isinstance(rules, Mapping) and name in rules:
                return parse_tolerance(rules[name])
        for pattern, rule in overrides.items():
            if fnmatchcase(name, pattern):
                return parse_tolerance(rule)
        if isinstance(general, Mapping) and "io" in general and name in self.tensors:
            return parse_tolerance(general["io"])
        return parse_tolerance(general)

    def compare(self, name: str, actual: Tensor, expected: Tensor) -> None:
        """Fail unless ``actual`` is ``expected`` within the tolerance of ``name``."""
        rule = self.tolerance(name)
        if rule.skip:
            return
        actual = actual.detach().cpu()
        if torch.bool in (actual.dtype, expected.dtype):
            actual, expected = actual != 0, expected != 0
        whole = not expected.is_floating_point() and not expected.is_complex()
        if whole and not (rule.rtol == 0 and rule.atol >= 1):
            rule = EXACT
        torch.testing.assert_close(
            actual,
            expected,
            rtol=rule.rtol,
            atol=rule.atol,
            equal_nan=True,
            check_dtype=self.spec.get("tolerance") == "exact",
            msg=lambda text: f"{self.kind}/{self.name}: {name}: {text}",
        )

    def check(self, outputs: Mapping[str, Tensor]) -> None:
        """Compare what a handler returned with the io file."""
        known = [name for name in outputs if name in self.tensors]
        assert known or not self.tensors, f"nothing of {sorted(outputs)} is in the golden data"
        for name in known:
            self.compare(name, outputs[name], self.tensors[name])
        self.used.update(known)
        self.leave(*INFORMATIVE)
        rest = sorted(set(self.tensors) - self.used)
        if rest:
            warnings.warn(f"{self.kind}/{self.name}: not compared: {', '.join(rest)}", stacklevel=2)


Handler = Callable[[Case], Mapping[str, Tensor]]


def find_cases(folder: Path) -> list[Case]:
    """Every case below ``folder``, sorted by kind and name; other JSON files are passed over."""
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.rglob("*.json"))]
    cases = [Case(path, spec) for path, spec in found if isinstance(spec, dict) and "kind" in spec]
    return sorted(cases, key=lambda case: (case.kind, case.name))


def find_handlers() -> dict[str, Handler]:
    """What the modules of ``handlers/`` register, by kind."""
    handlers: dict[str, Handler] = {}
    for path in sorted(HANDLER_FOLDER.glob("*.py")):
        module = importlib.import_module(f"handlers.{path.stem}")
        twice = handlers.keys() & module.HANDLERS.keys()
        assert not twice, f"two handlers for {sorted(twice)}"
        handlers |= module.HANDLERS
    return handlers
