"""What a caller may say of a network: its layers, and where their weights start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.schemas.choice import choice, word
from common.schemas.record import Listed, Record

MAX_LAYERS = 64
MAX_UNITS = 65_536
MAX_PIECES = 16

Share = Annotated[float, Field(ge=0, lt=1)]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh", "maxout", "identity"]
_activation = word(get_args(Activation), ())


class Dense(Record):
    """A fully connected layer: activation(inputs @ weights + bias), then dropout."""

    kind: Literal["dense"] = "dense"
    units: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    activation: Annotated[Activation, BeforeValidator(_activation)] = "relu"
    dropout: Share = 0.0
    """The share of outputs set to zero in each training step."""
    pieces: Annotated[int, Field(ge=2, le=MAX_PIECES)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Of maxout alone: how many linear functions each unit takes the largest of; null: 2."""

    @field_validator("pieces", mode="after")
    @classmethod
    def _check_pieces(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("activation", "maxout") != "maxout":
            raise PydanticCustomError("conflicting_options", "belongs to the activation maxout")
        return value

    @property
    def width_of_sums(self) -> int:
        """Numbers per row before the activation."""
        return self.units * ((self.pieces or 2) if self.activation == "maxout" else 1)


class LayerNorm(Record):
    """Each row of the layer below, shifted and scaled to mean 0 and deviation 1, then by learned numbers."""

    kind: Literal["layer_norm"] = "layer_norm"


class Residual(Record):
    """What comes in, plus what the layers inside make of it: they must end as wide as they begin."""

    kind: Literal["residual"] = "residual"
    layers: Annotated[
        Listed[Annotated[Dense | LayerNorm, Discriminator("kind"), choice(("dense", "layer_norm"), bare=False)]],
        Field(min_length=1, max_length=MAX_LAYERS),
    ]


Layer = Annotated[
    Dense | LayerNorm | Residual,
    Discriminator("kind"),
    choice(("dense", "layer_norm", "residual"), ("batch_norm", "conv2d"), bare=False),
]


Draw = Literal[
    "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "lecun_uniform", "orthogonal"
]


class DrawnWeights(Record):
    """The weights of all layers drawn by one rule; biases start at zero.

    He et al. (ICCV 2015), Glorot and Bengio (AISTATS 2010), LeCun et al. (1998), Saxe et al. (ICLR 2014).
    """

    kind: Draw


class NormalWeights(Record):
    """Weights and biases of all layers from a normal distribution of mean 0."""

    kind: Literal["normal"] = "normal"
    deviation: Annotated[float, Field(gt=0, le=1000)] = 1.0


Initializer = Annotated[DrawnWeights | NormalWeights, Discriminator("kind")]
_initializer = choice((*get_args(Draw), "normal"))


class NetworkShape(Record):
    """The hidden layers; input and output widths follow from the data."""

    layers: Annotated[Listed[Layer], Field(max_length=MAX_LAYERS)] = (
        Dense(units=128),
        Dense(units=64),
    )
    input_dropout: Share = 0.0
    """The share of the encoded inputs set to zero in each training step."""
    initializer: Annotated[Initializer, _initializer] | None = None
    """Null: He for relu and its like, Glorot else; the output layer starts smaller."""

    @model_validator(mode="after")
    def _check_blocks(self) -> NetworkShape:
        width: int | None = None
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Dense):
                width = layer.units
            elif isinstance(layer, Residual):
                if width is None:
                    raise PydanticCustomError(
                        "residual_width",
                        "layer {layer} is a residual block, and needs a dense layer somewhere below it",
                        {"layer": index},
                    )
                units = [inner.units for inner in layer.layers if isinstance(inner, Dense)]
                if units and units[-1] != width:
                    raise PydanticCustomError(
                        "residual_width",
                        "layer {layer} is a residual block: it gets {inputs} numbers per row, so its last dense layer "
                        "must have as many units, not {units}",
                        {"layer": index, "inputs": width, "units": units[-1]},
                    )
        return self

    @property
    def units(self) -> int:
        """Of all layers together."""
        return sum(layer.width_of_sums for layer in self._dense_layers())

    @property
    def has_dropout(self) -> bool:
        """Whether a training step draws masks."""
        return bool(self.input_dropout) or any(layer.dropout for layer in self._dense_layers())

    def _dense_layers(self) -> Iterator[Dense]:
        """Those inside of residual blocks too."""
        for layer in self.layers:
            for one in layer.layers if isinstance(layer, Residual) else (layer,):
                if isinstance(one, Dense):
                    yield one
