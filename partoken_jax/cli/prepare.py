"""`partoken prepare`: structure files and published data sets to the format that training streams from."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from partoken_jax.cli.flags import whole_number
from partoken_jax.config import ConfigError


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken prepare`, as a function that tyro reads."""

    def prepare(
        paths: Annotated[
            Positional[tuple[str, ...]],
            arg(
                help="The sources, and last the folder for the prepared set. Sources are structure files "
                "(.pdb, .ent, .cif, .mmcif, .bcif, .mmjson, also with .gz) and folders of them; or one of "
                "these: a .npz file, a folder of BioBlobs, proteinshake-ec, proteinshake-go, "
                "proteinshake-scop.",
                metavar="SOURCE... OUT",
            ),
        ],
        labels: Annotated[
            Path | None,
            arg(
                help="CSV file with the labels of structure files. Its column id has the name of a file "
                'without its suffix, or that and the chain ("1abc_A"). Its column split, which may be left '
                "out, has train, val or test. Every other column has the name of a class, or several with ; "
                "between them.",
                metavar="FILE",
            ),
        ] = None,
        chains: Annotated[
            str | None,
            arg(
                help="Chains to take from structure files, with commas between their names. Without it, all "
                "that are proteins.",
                metavar="NAME[,...]",
            ),
        ] = None,
        root: Annotated[
            Path | None,
            arg(
                help="Folder in which ProteinShake keeps its files; without it, the folder data.",
                metavar="DIR",
            ),
        ] = None,
        split: Annotated[
            str | None,
            arg(
                help="Shares of training, validation and test, with commas between them, by which proteins "
                "are split at random if the source has no splits. Without it, they are 0.8,0.1,0.1. Random "
                "splits put homologues into training and test alike.",
                metavar="TRAIN,VAL,TEST",
            ),
        ] = None,
        seed: Annotated[int, arg(help="Draws the random splits. Change it for others.")] = 0,
        neighbours: Annotated[
            int,
            arg(
                help="Number of nearest CA atoms that are stored for a residue; training can use as many or "
                "fewer. Raise it to train with more."
            ),
        ] = 30,
        workers: Annotated[
            int | None,
            arg(
                help="Number of processes that read, on which the result does not depend. Without it, there "
                "is one for each core. Lower it when memory runs out.",
                metavar="INT",
            ),
        ] = None,
        overwrite: Annotated[
            bool, arg(help="Whether to replace a prepared set at OUT; nothing else is ever replaced.")
        ] = False,
    ) -> Callable[[], None]:
        """Turn structure files or a published data set into a folder that training streams from. A command
        that was stopped goes on when it is given again."""
        settings = {
            "labels": labels,
            "chains": None if chains is None else [name.strip() for name in chains.split(",")],
            "root": root,
            "split": None if split is None else _shares(split),
            "seed": whole_number("seed", seed),
            "neighbours": whole_number("neighbours", neighbours),
            "workers": whole_number("workers", workers),
            "overwrite": overwrite,
        }
        if len(paths) < 2:
            raise ConfigError("name at least one source, and last the folder for the prepared set")
        return partial(_prepare, paths[:-1], paths[-1], settings)

    return prepare


def _prepare(sources: tuple[str, ...], out: str, settings: dict) -> None:
    from partoken_jax.prepare import prepare

    prepare(sources, out, **settings)


def _shares(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise ConfigError(
            f"split is {words!r}, but must be three numbers with commas between them, such as 0.8,0.1,0.1"
        ) from None
