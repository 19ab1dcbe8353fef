"""Fully connected networks."""

import flax.linen as nn
from jaxtyping import Array, Float


class MLP(nn.Module):
    """Relu layers of one width and a linear head, on flattened inputs.

    Attributes:
        classes: outputs.
        width: units in each hidden layer.
        depth: hidden layers.
    """

    classes: int
    width: int = 64
    depth: int = 2

    @nn.compact
    def __call__(self, images: Float[Array, "batch *image"], train: bool) -> Float[Array, "batch classes"]:
        """Logits of a batch; `train` changes nothing here."""
        x = images.reshape(images.shape[0], -1)
        for layer in range(self.depth):
            x = nn.relu(nn.Dense(self.width, name=f"hidden{layer + 1}")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x)


def block_names(depth: int) -> tuple[tuple[str, ...], ...]:
    """Parameter groups of an `MLP` from input to output."""
    return (*((f"hidden{layer + 1}",) for layer in range(depth)), ("head",))
