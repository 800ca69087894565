"""What a caller may say of how weights move: optimizer, schedule of the learning rate, regularization."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from common.schemas.choice import choice
from common.schemas.network import Share
from common.schemas.record import Record

MAX_EPOCHS = 100_000

Rate = Annotated[float, Field(ge=1e-12, le=1e12)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]


class Sgd(Record):
    """Stochastic gradient descent; with momentum, velocity = momentum x velocity + gradient."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = 0.01
    momentum: Share = 0.0


class Momentum(Record):
    """Stochastic gradient descent with momentum: the same as sgd with it."""

    kind: Literal["momentum"] = "momentum"
    learning_rate: Rate = 0.01
    momentum: Share = 0.9


class Nesterov(Record):
    """Stochastic gradient descent with Nesterov momentum: the step is along gradient + momentum x velocity."""

    kind: Literal["nesterov"] = "nesterov"
    learning_rate: Rate = 0.01
    momentum: Share = 0.9


class Adagrad(Record):
    """Adagrad (Duchi et al., 2011): each weight's rate falls with the squares of its gradients so far."""

    kind: Literal["adagrad"] = "adagrad"
    learning_rate: Rate = 0.01
    epsilon: Epsilon = 1e-10


class Adadelta(Record):
    """Adadelta (Zeiler, 2012): steps in units of earlier steps."""

    kind: Literal["adadelta"] = "adadelta"
    learning_rate: Rate = 1.0
    rho: Share = 0.9
    epsilon: Epsilon = 1e-6


class RmsProp(Record):
    """RMSProp (Tieleman and Hinton, 2012): gradients over the root of their recent mean square."""

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: Rate = 0.001
    rho: Share = 0.99
    epsilon: Epsilon = 1e-8


class Adam(Record):
    """Adam (Kingma and Ba, 2015, algorithm 1)."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Epsilon = 1e-8


class AdamW(Record):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), of 0.01 unless `regularization` has another."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Epsilon = 1e-8


Optimizer = Annotated[
    Sgd | Momentum | Nesterov | Adagrad | Adadelta | RmsProp | Adam | AdamW,
    Discriminator("kind"),
]
optimizer_choice = choice(("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw"))


class ConstantSchedule(Record):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


class StepSchedule(Record):
    """The learning rate times `factor` after every so many epochs."""

    kind: Literal["step"] = "step"
    epochs: Epochs = 10
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1


class ExponentialSchedule(Record):
    """The learning rate times `factor` after every epoch."""

    kind: Literal["exponential"] = "exponential"
    factor: Annotated[float, Field(gt=0, le=1)] = 0.95


class CosineSchedule(Record):
    """Down along half a cosine; with restarts, again and again (Loshchilov and Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    restart_epochs: Epochs | None = None
    """Length of the first cycle; null: one cycle over all epochs."""
    restart_factor: Annotated[int, Field(ge=1, le=10)] = 1
    """How many times as long each next cycle is."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The end of a cycle, as a share of the learning rate."""


class OneCycleSchedule(Record):
    """Up to the learning rate and down to almost nothing (Smith and Topin, 2019)."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of all steps in which it rises."""
    start_divisor: Annotated[float, Field(ge=1, le=1e6)] = 25.0
    end_divisor: Annotated[float, Field(ge=1, le=1e9)] = 1e4
    """It begins at the learning rate over `start_divisor`, and ends at that over `end_divisor`."""


class PlateauSchedule(Record):
    """The learning rate times `factor` when the loss has not fallen for more than `patience` epochs.

    The validation loss, or the training loss without validation.
    """

    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = 5
    threshold: Share = 1e-4
    """By what share of the best loss a loss must be lower to count as falling."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The lowest it goes, as a share of the learning rate."""


_Plain = Annotated[
    ConstantSchedule | StepSchedule | ExponentialSchedule | CosineSchedule | OneCycleSchedule | PlateauSchedule,
    Discriminator("kind"),
]
_PLAIN = ("constant", "step", "exponential", "cosine", "one_cycle", "reduce_on_plateau")


class WarmUpSchedule(Record):
    """First the learning rate rises in even steps, and meanwhile and then it follows another schedule."""

    kind: Literal["warm_up"] = "warm_up"
    epochs: Annotated[float, Field(gt=0, le=MAX_EPOCHS)] = 1.0
    """In which it rises; may be a fraction."""
    then: Annotated[_Plain, choice(_PLAIN)] = ConstantSchedule()


Schedule = Annotated[
    ConstantSchedule
    | StepSchedule
    | ExponentialSchedule
    | CosineSchedule
    | OneCycleSchedule
    | PlateauSchedule
    | WarmUpSchedule,
    Discriminator("kind"),
]
schedule_choice = choice((*_PLAIN, "warm_up"))


class Regularization(Record):
    """Penalties and limits on weights and gradients. Biases, gains and shifts are free of penalties."""

    l1: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Times the sum of absolute weights, added to what is minimized; losses are reported without it."""
    l2: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Times half the sum of squared weights, added to what is minimized; losses are reported without it."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """In each step, weights are multiplied by 1 - learning rate x this, apart from the gradient."""
    max_norm: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """After each step, no unit's incoming weights are longer than this (Srivastava et al., 2014). Needs one server."""
    clip_norm: Annotated[float, Field(ge=1e-12, le=1e12)] | None = None
    """The gradient is scaled down to this Euclidean norm, taken over all weights, where it is longer.

    Pascanu et al. (ICML 2013). Of the averaged gradient in synchronous training, of each worker's own else.
    """
    clip_value: Annotated[float, Field(ge=1e-12, le=1e12)] | None = None
    """Every number of the averaged gradient is cut at plus and minus this. Not together with `clip_norm`."""
