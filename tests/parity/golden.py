"""Golden cases: how they are found, read and compared.

A case is ``<case>.json`` with ``<case>.io.safetensors`` and weights under the source project's own
key names; ``kind`` says what is computed. A handler computes a case::

    def logits(case: Case) -> dict[str, Tensor]: ...   # outputs by their golden names

    HANDLERS = {"maskgit_pytorch.logits": logits}

Every ``handlers/*.py`` is found by itself. Outputs that a case lacks are not compared; tensors that
nobody read or returned give a warning, and so do keys of the configuration that a handler ignores.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

IDS = {torch.int16, torch.int32}
NARROW = {torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
INFORMATIVE = ("seeded_*",)  # outputs that depend on the torch build
# Keys that describe a case and decide nothing: prose, files, tolerances, sizes of its tensors.
BESIDE = (
    *("kind", "case", "source", "reference", "family", "comput*", "note*", "*_note", "inputs"),
    *("outputs", "io", "io_tensors", "weights", "weights_*", "input_file", "strict_state_dict"),
    *("dtype", "tolerance*", "noise_floor_*", "min_*margin*", "min_*_gap", "max_abs_diff_*"),
    *("batch", "seq_len", "input_size", "params", "num_parameters", "unique_indices"),
    *("known_tokens_remasked", "pillow", "skimage", "numpy", "torch"),
)
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


class Watched(dict[str, Any]):
    """A mapping, with those inside it, that remembers which of its keys were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({k: Watched(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        self.read.update(self)
        return super().values()

    def unread(self) -> Iterator[str]:
        """Keys that nobody asked for; of a mapping that was asked for, those inside."""
        for key, value in super().items():
            if any(fnmatchcase(key, pattern) for pattern in BESIDE):
                continue
            if key not in self.read:
                yield key
            elif isinstance(value, Watched):
                yield from (f"{key}.{inside}" for inside in value.unread())


@dataclass
class Case:
    """One golden case."""

    path: Path
    spec: Watched
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
    def config(self) -> Watched:
        """The source project's own configuration of the network."""
        return self.spec["config"]

    def told(self, **found: object) -> None:
        """Fail where the configuration says otherwise than what was found in weights or code."""
        for name, value in found.items():
            if name in self.config:
                said = self.config[name]
                said = tuple(said) if isinstance(said, list) else said
                assert said == value, f"{name}={said!r} in the configuration, found {value!r}"

    def aside(self, *names: str) -> None:
        """Say that these keys of the configuration do not matter to what is computed."""
        self.config.read.update(names)

    def unread(self) -> list[str]:
        """Keys that decide something, as far as one can know, and that the handler ignored."""
        return list(self.spec.unread())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the io file, inputs and outputs; empty when there is none."""
        path = self.path.with_name(self.spec.get("io") or f"{self.name}.io.safetensors")
        return load_file(path) if path.exists() else {}

    def has(self, name: str) -> bool:
        """Whether the io file holds ``name``."""
        return name in self.tensors

    def input(self, name: str) -> Tensor:
        """An input that every case of the kind has; narrow floats are float32, ids int64."""
        self.used.add(name)
        found = self.tensors[name]
        if found.dtype in NARROW:
            return found.float()
        return found.long() if found.dtype in IDS else found

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
    cases = [
        Case(path, Watched(spec))
        for path, spec in found
        if isinstance(spec, dict) and "kind" in spec
    ]
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
