"""How settings are declared, checked, and read from files; `config.py` says which there are.

Pydantic checks values against the types of the fields. This file adds one sentence for whatever is wrong.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import os
import reprlib
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic.dataclasses
import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from partoken_jax.files import unreadable, write_whole

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and says what is allowed."""


def _plain_integer(value: Any) -> Any:
    """NumPy's integers count as Python's; booleans do not count."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value


def _plain_float(value: Any) -> Any:
    """NumPy's numbers count as Python's, and so does text, because YAML 1.1 reads 1e-3 as text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _plain_path(value: Any) -> Any:
    """Paths count as text. No file has a name with a zero byte in it."""
    if isinstance(value, Path):
        value = os.fspath(value)
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("path", "zero byte")
    return value


_WHOLE, _REAL = BeforeValidator(_plain_integer), BeforeValidator(_plain_float)

# A number that no run can need is a slip of the finger, and would cost the memory of the machine or years.
# `Annotated[AtLeast1, AtMost(100)]` lowers the bound of a field.
AtLeast0 = Annotated[int, Field(strict=True, ge=0, le=10**9), _WHOLE]
AtLeast1 = Annotated[int, Field(strict=True, ge=1, le=10**9), _WHOLE]
AtLeast2 = Annotated[int, Field(strict=True, ge=2, le=10**9), _WHOLE]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1), _WHOLE]
"""What NumPy and JAX both take."""
NonNegative = Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False), _REAL]
Positive = Annotated[float, Field(strict=True, ge=1e-30, le=1e9, allow_inf_nan=False), _REAL]
"""Not so small that it is 0 in float32."""
Share = Annotated[float, Field(strict=True, gt=0, le=1), _REAL]
"""In (0, 1]."""
BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1), _REAL]
"""In [0, 1)."""
Flag = Annotated[bool, Field(strict=True)]
FilePath = Annotated[str, Field(min_length=1), BeforeValidator(_plain_path)]


def AtMost(most: float) -> Any:
    """A lower bound from above, for one field: `Annotated[AtLeast1, AtMost(100)]`."""
    return Field(le=most)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass that checks its fields by their types, however it is built.

    Building one raises ConfigError, which names every setting that is wrong. `__post_init__` may check fields
    against each other; what it says in a ValueError has to begin with the name of a field.
    """
    made: Any = pydantic.dataclasses.dataclass(
        cls,  # type: ignore[arg-type]
        frozen=True,
        config=ConfigDict(extra="forbid", use_attribute_docstrings=True),
    )
    unchecked, signature = made.__init__, inspect.signature(made)

    @functools.wraps(unchecked)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        named = signature.bind_partial(*args).arguments
        try:
            unchecked(self, **named, **values)
        except ValidationError as error:
            raise ConfigError(_sentence(error, made, named | values, f"{made.__name__}.")) from None

    made.__init__ = __init__
    return made


def is_settings(cls: Any) -> bool:
    """Whether `settings` made this class."""
    return isinstance(cls, type) and pydantic.dataclasses.is_pydantic_dataclass(cls)


def help_texts(cls: Any) -> dict[str, str]:
    """By name, the text under every field of a settings class, or under the class that a field holds."""
    fields = cls.__pydantic_fields__.items()
    texts = {name: field.description or inspect.getdoc(field.annotation) or "" for name, field in fields}
    return {name: " ".join(text.split()) for name, text in texts.items()}


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dictionaries, lists and numbers (what YAML and checkpoints store)."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None) -> T:
    """The inverse of `to_dict`; missing settings keep the value they have in `base`, or else in `cls()`.

    Raises ConfigError that names every setting which does not exist or has a value that is not allowed.
    """
    merged = _merged(to_dict(cls() if base is None else base), values)
    try:
        return TypeAdapter(cls).validate_python(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error, cls, merged, "")) from None


def load_yaml(cls: type[T], path: str | Path, base: T | None = None) -> T:
    """Reads a config file; settings that it does not name are those of `base`, or else of `cls()`.

    Raises ConfigError that names the file and the setting.
    """
    values = read_yaml(path)
    try:
        return from_dict(cls, values, base)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a file, unchecked. Raises ConfigError for a file that holds none."""
    path = Path(path)
    if reason := unreadable(path):
        raise ConfigError(f"{path}: cannot be read ({reason}); give a file of settings")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(
            f"{path}: has {path.stat().st_size:,} bytes, but settings take at most {MAX_YAML_BYTES:,}; "
            "give a YAML file of settings"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(
            f"{path}: not valid YAML ({line}{' '.join(str(error.problem).split())}); "
            "write settings as 'name: value' lines"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date or number that cannot be
        raise ConfigError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); write settings as 'name: value' lines"
        ) from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no settings; write them as 'name: value' lines")
    return values or {}


MAX_YAML_BYTES = 100_000
_MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """Refuses what only a slip or malice puts into settings: names set twice, references ("billion laughs"
    are a few lines that stand for gigabytes), nesting without end."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} refers to another place; write the value out",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MAX_DEPTH} groups within groups", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        values = super().construct_mapping(node, deep=deep)
        if len(values) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise yaml.MarkedYAMLError(
                problem=f"{shown(twice)} is set twice; keep one", problem_mark=node.start_mark
            )
        return values


def save_yaml(config: Any, path: str | Path) -> None:
    """Writes a config, whole or not at all, so that `load_yaml` gives an equal one."""
    write_whole(Path(path), yaml.safe_dump(to_dict(config), sort_keys=False))


def _merged(defaults: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over `defaults`, group by group."""
    merged = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(merged[name], dict):
            merged[name] = _merged(default, merged[name])
    return merged


def _sentence(error: ValidationError, cls: Any, values: Any, prefix: str) -> str:
    """Everything that is wrong with `values` of `cls`. `prefix` stands before the name of every setting."""
    said: dict[str, None] = {}  # in order, each once
    unknown: dict[str, tuple[Any, list[str]]] = {}
    for fault in error.errors(include_url=False):
        group, value, where, path = cls, values, prefix, list(fault["loc"])
        while path and (field := _fields(group).get(path[0])) is not None:
            value = value[path[0]] if isinstance(value, dict) else getattr(value, str(path[0]))
            name, where, group = f"{where}{path[0]}", f"{where}{path[0]}.", field
            path.pop(0)
        if path and is_settings(group) and isinstance(value, dict):
            unknown.setdefault(where, (group, []))[1].append(shown(path[0]))
        elif fault["type"] == "value_error":
            said[f"{where}{fault['ctx']['error']}"] = None
        else:
            said[f"{name} is {shown(value)}, but must be {_allowed(group, value)}"] = None
    for where, (group, names) in unknown.items():
        holder = f"{where.removesuffix('.')} has" if where else "there is"
        said[f"{holder} no setting called {_listed(names, 'or')}, only {_listed(_fields(group))}"] = None
    return "; ".join(said)


def _fields(cls: Any) -> dict[Any, Any]:
    """The types of the fields of a settings class by name; none for the type of a value."""
    return typing.get_type_hints(cls, include_extras=True) if is_settings(cls) else {}


def _allowed(hint: Any, value: Any) -> str:
    """What a field of this type may hold, in words; they follow 'must be'."""
    if is_settings(hint):
        return f"a group of settings such as {next(iter(_fields(hint)))}"
    words = _words(TypeAdapter(hint).json_schema())
    infinite = isinstance(value, float) and not math.isfinite(value)
    return words.replace("a number", "a finite number") if infinite else words


def _words(schema: dict[str, Any], plural: bool = False) -> str:
    """A JSON schema of a value, or of several values, in words."""
    if "anyOf" in schema:
        first, *others = (_words(option) for option in schema["anyOf"])
        return ", or ".join([first, *others])
    if "enum" in schema:
        return _listed(map(repr, schema["enum"]), "or")
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} {_words(schema['prefixItems'][0], plural=True)}"
    if schema["type"] == "array":
        count = "one or more of" if schema.get("minItems") else "any of"
        return f"{count} {_listed(map(repr, schema['items']['enum']))}"
    return f"{_TYPES[schema['type']][plural]} {_range(schema)}".strip()


def _range(schema: dict[str, Any]) -> str:
    """The bounds of a number in words."""
    if schema["type"] == "string":
        return "that is not empty and has no zero byte" if "minLength" in schema else ""
    narrowed = {"minimum": schema.get("ge"), "maximum": schema.get("le")}  # of a field with bounds of its own
    bounds = schema | {key: bound for key, bound in narrowed.items() if bound is not None}
    words = {key: _number(bounds[key]) for key in _BOUNDS if key in bounds}
    if list(words) == ["minimum", "maximum"]:
        return f"from {words['minimum']} to {words['maximum']}"
    return " and ".join(f"{_BOUNDS[key]} {bound}" for key, bound in words.items())


def _number(bound: float) -> str:
    return f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"


_TYPES = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("text", "texts"),
    "null": ("none", "none"),
}
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


class _Short(reprlib.Repr):
    """Values as Python writes them, but never so long that a sentence is lost in them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out a number of thousands of digits.
        return super().repr_int(x, level) if x.bit_length() < 2000 else f"a number of {x.bit_length():,} bits"


def shown(value: Any) -> str:
    """A value as Python writes it, shortened to be part of a sentence."""
    return _Short().repr(value)


def _listed(names: Any, word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else str(last)
