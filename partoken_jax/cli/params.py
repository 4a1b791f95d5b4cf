"""`partoken params`: where the parameters are."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from tyro.conf import arg

from partoken_jax.config import ModelConfig, from_dict


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken params`, as a function that tyro reads."""

    def params(
        num_classes: Annotated[
            int,
            arg(
                help="Number of classes, on which the size of the classifier depends. Set it to that of the "
                "task; the EC task has 7."
            ),
        ] = 2,
    ) -> Callable[[], None]:
        """Print the trainable parameters of both models, component by component."""
        kinds = ("gvp", "partoken")
        return partial(
            _params, [from_dict(ModelConfig, {"kind": kind, "num_classes": num_classes}) for kind in kinds]
        )

    return params


def _params(models: list[ModelConfig]) -> None:
    from flax import nnx

    from partoken_jax.models import build_model
    from partoken_jax.parameters import parameter_table

    for config in models:
        rows = parameter_table(nnx.eval_shape(lambda config=config: build_model(config, rngs=nnx.Rngs(0))))
        print(f"{config.kind}, {config.num_classes} classes")
        for component, count in rows:
            print(f"  {component:<28}{count:>9,}")
