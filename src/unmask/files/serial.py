"""Dataclasses as YAML and back; an unknown key is an error that says which was probably meant."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import cattrs
import yaml
from cattrs import AttributeValidationNote, ClassValidationError
from cattrs.errors import ForbiddenExtraKeysError

from unmask.errors import InputError, did_you_mean
from unmask.files.durable import output
from unmask.image_size import accept_sizes
from unmask.ranges import Ranged, shown

T = TypeVar("T")
NUMBER = re.compile(r"([-+]?\d+)(\.\d*)?(?:[eE]([-+]?)(\d+))?")

TAG = "kind"  # the key that names the class where a field allows several
MADE_FROM = "made_from"  # what a run's recipe.yaml says beyond the recipe: which data, whose codes


@functools.cache  # what it compiles for each class is kept with it
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _structure_plain)
    accept_sizes(converter)
    converter.register_structure_hook_func(
        lambda wanted: get_origin(wanted) is Literal, _structure_choice
    )
    converter.register_structure_hook_func(_number_or_word, _structure_number_or_word)
    converter.register_structure_hook_func(has_choices, _structure_kind)
    converter.register_unstructure_hook_factory(
        has_choices, lambda wanted: functools.partial(_unstructure_kind, wanted=wanted)
    )
    return converter


@functools.cache
def _by_fields(cls: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions that read and write the fields of a class, whose kind is known already."""
    converter = _converter()
    return (
        converter.gen_structure_attrs_fromdict(cls),
        converter.gen_unstructure_attrs_fromdict(cls),
    )


def choices(wanted: Any) -> tuple[type, ...]:
    """The dataclasses that a field of this type may hold, where it may hold several.

    Args:
        wanted: the annotation: a union of dataclasses, or an abstract one, whose finished
            descendants are meant, wherever they were defined; or one that says by
            ``extensible: ClassVar[bool]`` that its descendants may stand in its place.
    """
    if get_origin(wanted) in (Union, UnionType):
        parts = get_args(wanted)
        return parts if all(map(dataclasses.is_dataclass, parts)) else ()
    if inspect.isabstract(wanted):
        return tuple(_finished(wanted))
    return (wanted, *_finished(wanted)) if getattr(wanted, "extensible", False) else ()


def has_choices(wanted: Any) -> bool:
    """Whether a file must say which class a field of this type holds."""
    return bool(choices(wanted))


def _finished(wanted: Any) -> Iterator[type]:
    heirs: list[type] = wanted.__subclasses__()
    for heir in heirs:
        if not inspect.isabstract(heir):
            yield heir
        yield from _finished(heir)


def former_names(kind: object) -> tuple[str, ...]:
    """What a class was called in older files, of any that keeps its options in ranges."""
    same = (cls for cls in _finished(Ranged) if cls.__name__ == kind)
    return next((vars(cls).get("formerly", ()) for cls in same), ())


def _structure_kind(value: Any, wanted: Any) -> Any:
    """An object of the class that the key ``kind`` names, by default the first.

    A renamed class lists its former names in ``formerly: ClassVar[tuple[str, ...]]``.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is no mapping of keys to values")
    possible = choices(wanted)
    known = {cls.__name__: cls for cls in possible}
    former = {name: cls for cls in possible for name in vars(cls).get("formerly", ())}
    needed = any(f.default is f.default_factory for f in dataclasses.fields(possible[0]))
    kind = value.get(TAG, None if needed else possible[0].__name__)
    if kind is None:
        raise _of_kind(KeyError(TAG))
    found = known.get(kind) or former.get(kind)
    if found is None:
        raise _of_kind(ValueError(f"unknown class {kind!r}; {did_you_mean(str(kind), known)}"))
    others = {key: item for key, item in value.items() if key != TAG}
    return _by_fields(found)[0](others, found)


def _of_kind(error: Exception) -> Exception:
    """What is wrong with the key ``kind``, as cattrs tells what is wrong with a key."""
    error.add_note(AttributeValidationNote("", TAG, str))
    return ClassValidationError("", [error], dict)


def _unstructure_kind(value: Any, wanted: Any) -> dict[str, Any]:
    cls: Any = type(value)
    kind = {} if cls is wanted else {TAG: cls.__name__}
    return {**_by_fields(cls)[1](value), **kind}


def _structure_choice(value: object, wanted: object) -> object:
    known = get_args(wanted)
    if value in known:
        return value
    if isinstance(value, bool):  # YAML 1.1 reads yes, no, on and off so
        meant = [choice for choice in known if choice in (("no", "off"), ("yes", "on"))[value]]
        if meant:
            raise ValueError(f"{value} is no choice; quote '{meant[0]}'")
    raise ValueError(f"{shown(value)} is no choice; {did_you_mean(str(value), known)}")


def _number_or_word(wanted: Any) -> bool:
    words = [get_origin(part) is Literal for part in get_args(wanted)]
    return get_origin(wanted) in (Union, UnionType) and words == [False, True]


def _structure_number_or_word(value: object, wanted: Any) -> object:
    number, word = get_args(wanted)
    if isinstance(value, str):
        return _structure_choice(value, word)
    return _converter().structure(value, number)


def _structure_plain(value: object, wanted: type) -> object:
    """Convert nothing but int to float: YAML has types of its own."""
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(
            f"{shown(value)} is not of type {wanted.__name__}{_way_out(value, wanted)}"
        )
    return value


def _way_out(value: object, wanted: type) -> str:
    """How YAML wants what was probably meant: to it 1e-4 is text, and no is false."""
    if wanted is str:
        return f"; quote it: '{str(value).lower() if isinstance(value, bool) else value}'"
    number = NUMBER.fullmatch(value) if isinstance(value, str) and wanted is not bool else None
    if number is None:
        return ""
    whole, part, sign, power = number.groups()
    if power is None:
        return f"; write {value} without quotes"
    return f"; write {whole}{part or '.0'}e{sign or '+'}{power}"


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists and scalars, the form written to YAML and JSON."""
    return _plain(_converter().unstructure(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_dict(wanted: type[T], data: dict[str, Any], origin: str) -> T:
    """The dataclass that ``data`` describes.

    Args:
        wanted: a dataclass.
        data: as :func:`to_dict` makes it; keys with defaults may be left out.
        origin: file or other source, named in errors.

    Raises:
        InputError: for an unknown key, a wrong type, a missing key or a value out of range.
    """
    try:
        return _converter().structure(data, wanted)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None
    except Exception as error:  # cattrs groups whatever its hooks raised
        raise InputError(f"{origin}: {_first_reason(error)}") from error


def _first_reason(error: BaseException, where: str = "") -> str:
    """The first leaf of cattrs' error tree as a sentence with the path to the key."""
    for note in getattr(error, "__notes__", ()):
        name = getattr(note, "name", None)
        where = f"{where}.{name}" if where and name else name or where
    if isinstance(error, cattrs.BaseValidationError):
        return _first_reason(error.exceptions[0], where)
    if isinstance(error, ForbiddenExtraKeysError):
        unknown = sorted(error.extra_fields)[0]
        known = [f.name for f in dataclasses.fields(error.cl)]
        at = f"{where}.{unknown}" if where else unknown
        return f"unknown key {at!r}; {did_you_mean(unknown, known)}"
    if isinstance(error, KeyError):
        return f"the key {where or error.args[0]!r} is missing"
    if isinstance(error, InputError) or not where:  # a dataclass names its place itself
        return str(error)
    return f"{where}: {error}"


def load_yaml(path: Path) -> object:
    """The value of a YAML file.

    Raises:
        InputError: when the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name the YAML file in it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be read as YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None


def read_yaml(wanted: type[T], path: Path) -> T:
    """The dataclass in a YAML file.

    Raises:
        InputError: see :func:`load_yaml`; also for what does not describe a ``wanted``.
    """
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no mapping of keys to values")
    data.pop(MADE_FROM, None)
    return from_dict(wanted, data, str(path))


def write_yaml(value: Any, path: Path) -> None:
    """Write a dataclass so that :func:`read_yaml` gives an equal one."""
    text = yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True)
    with output(path) as aside:
        aside.write_text(text, encoding="utf8")
