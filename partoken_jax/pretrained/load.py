"""Which model is meant, and where it is.

Importing this does not import JAX, so that a name that does not exist is answered at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from partoken_jax.pretrained.files import ModelError, read_model
from partoken_jax.training.run_directory import check_checkpoint

if TYPE_CHECKING:
    from partoken_jax.training.trained import TrainedModel

BOX = Path(__file__).parent
"""Where the models that come with the package are: NAME.safetensors."""
DEFAULT = "cath-architecture"


def load_model(source: str | Path | None = None) -> "TrainedModel":
    """A trained model, ready to predict.

        model = partoken_jax.load_model()
        model.predict(proteins)[0].label

    Args:
      source: name of a model that comes with the package (`pretrained.model_names` lists them; by default
        "cath-architecture"), directory of a run, of which it is the best checkpoint, or .safetensors file of
        a model. A name goes before a directory of that name.

    Raises ModelError for a source that is none of these, CheckpointError for a run without a checkpoint,
    ConvertError for a damaged file.
    """
    path = find_model(source)
    if path.is_file():
        return read_model(path)
    from partoken_jax.training.trained import trained_run

    return trained_run(path)


def find_model(source: str | Path | None = None) -> Path:
    """The file or directory of a model; `source` and errors are those of `load_model`."""
    source = DEFAULT if source is None else source
    if source in model_names():
        return BOX / f"{source}.safetensors"
    path = Path(source)
    if path.is_dir():
        check_checkpoint(path, "best")
    elif not path.exists():
        listed = ", ".join(model_names()) or "none"
        raise ModelError(
            f"{source}: there is no file, no directory and no model in the package of that name (in the "
            f"package: {listed}); check the path"
        )
    return path


def model_names() -> list[str]:
    """The models that come with the package."""
    return sorted(path.stem for path in BOX.glob("*.safetensors"))
