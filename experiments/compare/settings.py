"""The settings of a comparison, which are also the flags of `python -m experiments.compare`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.compare.protocol import MODELS, ORIGINAL_MODELS, VARIANTS, Settings
from partoken_jax.config import ConfigError


def _words(given: list[str]) -> tuple[str, ...]:
    return tuple(word.strip() for word in given[0].split(",") if word.strip())


def _numbers(given: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(given))
    except ValueError:
        raise ConfigError(
            f"batch_size is {given[0]!r}, but must be whole numbers with commas between them"
        ) from None


def _list_of(parse: Any, metavar: str) -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Words = Annotated[tuple[str, ...], _list_of(_words, "A,B,...")]
Numbers = Annotated[tuple[int, ...], _list_of(_numbers, "N,N,...")]


@dataclass(frozen=True)
class Subjects:
    """What is compared."""

    models: Words = MODELS
    """The models to compare: gvp, partoken, or both with a comma between them."""
    variants: Words = VARIANTS
    """The ways to run each model, with commas between them. Leave some out to save time; jax_fast always
    runs, because the others take turns with it."""
    original: Path | None = None
    """A checkout of the authors' code, whose ParToken is then timed as well."""
    small: bool = False
    """Use a small model, to try the comparison out in a minute."""

    def __post_init__(self) -> None:
        for name, given, allowed in (("models", self.models, MODELS), ("variants", self.variants, VARIANTS)):
            if not given or set(given) - set(allowed):
                raise ConfigError(
                    f"{name} is {','.join(given)!r}, but must be one or more of {', '.join(allowed)}"
                )
        files = [f"{module}.py" for module, _ in ORIGINAL_MODELS]
        if self.original is not None and not any((self.original / file).is_file() for file in files):
            raise ConfigError(
                f"{self.original}: has no {' or '.join(files)}; give a checkout of the authors' code"
            )


@dataclass(frozen=True)
class Batches:
    """Which proteins every step works on."""

    batch_size: Numbers = (4, 16, 64)
    """Proteins per step, with commas between several sizes."""
    residues: int = 300
    """Residues of every synthetic protein. They have no effect where --data names real proteins."""
    data: Path | None = None
    """A .npz file with real proteins, to be used instead of synthetic ones."""
    neighbours: int = 30
    """Nearest CA atoms that send messages to a residue. The published models use 30."""
    seed: int = 0
    """Seed of the weights and of the proteins."""

    def __post_init__(self) -> None:
        if not self.batch_size or min(*self.batch_size, self.residues, self.neighbours) < 1:
            raise ConfigError("batch_size, residues and neighbours must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, but must be 0 or more")
        if self.data is not None and not self.data.is_file():
            raise ConfigError(f"data is {str(self.data)!r}, but there is no such file")


@dataclass(frozen=True)
class Measurement:
    """How it is measured."""

    precision: Literal["float32", "tensorfloat32"] = "float32"
    """How both frameworks multiply matrices. A CPU has float32 only; on a GPU measure both."""
    repeats: int = 7
    """Timed runs of every program. Take more where the quartiles are far apart."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}, but must be at least 1")


@dataclass(frozen=True)
class CompareConfig:
    """Every setting of a comparison. Raises ConfigError for one that cannot be used."""

    subjects: Subjects = field(default_factory=Subjects)
    batches: Batches = field(default_factory=Batches)
    measurement: Measurement = field(default_factory=Measurement)

    def case(self, model: str, batch_size: int) -> Settings:
        """What the workers of one model and batch size run."""
        batches, original = self.batches, self.subjects.original
        return Settings(
            model=model,
            batch_size=batch_size,
            residues=None if batches.data else batches.residues,
            path=None if batches.data is None else str(batches.data.resolve()),
            neighbours=batches.neighbours,
            precision=self.measurement.precision,
            seed=batches.seed,
            small=self.subjects.small,
            original=None if original is None else str(original.resolve()),
        )
