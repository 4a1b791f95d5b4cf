"""Flags from the settings' dataclasses: a flag for every field, with the field's help, grouped as they are.

tyro reads the words of the command line; `partoken_jax.settings` checks what they say, all at once and by the
same rules as a file. So tyro gets settings to fill in as dictionaries.
"""

import argparse
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from partoken_jax.config import ConfigError, ModelConfig, TrainConfig
from partoken_jax.presets import PRESETS, preset
from partoken_jax.settings import from_dict, help_texts, is_settings, load_yaml, shown
from partoken_jax.timing_config import TimingConfig

T = TypeVar("T")
SHORT = {
    (ModelConfig, "kind"): "--model",
    (ModelConfig, "precision"): "--precision",
    (TimingConfig, "path"): "--data",
}
"""Second names of flags that are used often."""


def flags_from_settings(left_out: Collection[tuple[type, str]] = ()) -> ConstructorRegistry:
    """Tells tyro how to make flags of a settings class, but for the fields left out."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_settings(info.type):
            return None
        types, texts = typing.get_type_hints(info.type), help_texts(info.type)
        fields = [
            StructFieldSpec(
                name=name,
                type=_detailed(types[name], SHORT.get((info.type, name))),
                default=getattr(info.default, name),
                helptext=texts[name],
            )
            for name in types
            if (info.type, name) not in left_out
        ]
        return StructConstructorSpec(instantiate=lambda **values: values, fields=tuple(fields))

    @registry.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """Words that are no number stay words, so that the settings say what is wrong with them."""
        if info.type not in (int, float):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=info.type.__name__.upper(),
            instance_from_str=lambda words: _number(info.type, words[0]),
            is_instance=lambda value: isinstance(value, int | float | str),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def checked(cls: type[T], values: T) -> T:
    """The settings that flags have filled in; until here they are a dictionary, whatever their type says.

    Raises ConfigError that names all that are wrong.
    """
    return from_dict(cls, cast(dict[str, Any], values))


def whole_number(name: str, value: Any) -> Any:
    """The value of a flag that no settings class checks: a number, or none. Raises ConfigError for a word."""
    if isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}, but must be a whole number")
    return value


def stored_settings(args: list[str]) -> TrainConfig:
    """What flags are measured against: those in --config, over those of --preset; else those of the run to
    resume; else the published ones."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--preset")
    first.add_argument("--run-dir", "--run_dir", type=Path, default=Path(TrainConfig().run_dir))
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(args)
    base = preset(known.preset) if known.preset in PRESETS else None  # tyro says what is wrong with others
    if known.config is not None:
        return load_yaml(TrainConfig, known.config, base)
    if base is not None:
        return base
    stored = known.run_dir / "config.yaml"
    return load_yaml(TrainConfig, stored) if known.resume and stored.is_file() else TrainConfig()


def _detailed(hint: Any, short: str | None) -> Any:
    """The type of a field with what else tyro needs to know of it."""
    first, *others = typing.get_args(hint) or (None,)
    if others == [...]:
        return Annotated[hint, _names(typing.get_args(first))]
    metavar = (
        {int: "INT", float: "FLOAT", str: "FILE"}[first] if type(None) in others else None
    )  # in place of "{None}|INT"
    return Annotated[hint, tyro.conf.arg(aliases=(short,) if short else None, metavar=metavar)]


def _number(kind: type, word: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        return word


def _names(choices: tuple[str, ...]) -> PrimitiveConstructorSpec:
    """Any of some names, as one word with commas between them."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(choices)}}}[,...]",
        instance_from_str=lambda words: tuple(name.strip() for name in words[0].split(",") if name.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    )
