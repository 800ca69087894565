"""When a training is told that its gradients vanish or explode, or that its units have died; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.network.health import LayerHealth

_VANISHED = 1e-4
"""A layer whose gradient is so much smaller than that of the last one learns next to nothing."""
_EXPLODED, _LARGE = 1e3, 10.0
"""A gradient so many times as long as in the first epoch, and at least so long."""
_DEAD, _SATURATED = 0.5, 0.9
_EPOCHS = 3
"""So many in a row are no accident."""


@dataclass(slots=True)
class HealthRule:
    """Watches the layers of a run, epoch by epoch, and says each thing once."""

    _first: dict[str, float] = field(default_factory=dict)
    """Norms of gradients in the first epoch that had one."""
    _counts: dict[str, int] = field(default_factory=dict)
    """Epochs in a row, by what was seen and where; those that were told count on."""

    def note(self, layers: Sequence[LayerHealth]) -> list[str]:
        """Takes in an epoch; what there is to say now, in plain words."""
        seen = dict(self._look(layers))
        self._counts = {key: self._counts.get(key, 0) + 1 for key in seen} | {
            key: count for key, count in self._counts.items() if count >= _EPOCHS and key not in seen
        }
        return [message for key, message in seen.items() if self._counts[key] == _EPOCHS]

    def _look(self, layers: Sequence[LayerHealth]) -> Iterator[tuple[str, str]]:
        norms = {layer.name: layer.gradient_norm for layer in layers if layer.gradient_norm is not None}
        last = list(norms.values())[-1] if norms else 0.0
        for name, norm in norms.items():
            if not norm:  # there is nothing to compare
                continue
            first = self._first.setdefault(name, norm)
            # Of an embedding only the vectors of a batch's categories have gradients: it may well be short.
            if norm < _VANISHED * last and not name.startswith("embedding"):
                yield (
                    f"vanishing {name}",
                    f"The gradients of {name} are {last / norm:,.0f} times smaller than those of the output layer: they "
                    "vanish on the way back, and the layer hardly learns. Relu or one of its like, fewer layers, layer "
                    "normalization or residual blocks help.",
                )
            if norm > max(_LARGE, _EXPLODED * first):
                yield (
                    f"exploding {name}",
                    f"The gradients of {name} have grown to {norm / first:,.0f} times what they were: they explode. A "
                    "smaller learning rate or regularization.clip_norm helps.",
                )
        for layer in layers:
            if layer.dead is not None and layer.dead >= _DEAD:
                yield (
                    f"dead {layer.name}",
                    f"{layer.dead:.0%} of the units of {layer.name} are 0 for every row looked at: they are dead, and "
                    "no gradient passes them. A smaller learning rate, leaky_relu or gelu help.",
                )
            if layer.saturated is not None and layer.saturated >= _SATURATED:
                yield (
                    f"saturated {layer.name}",
                    f"{layer.saturated:.0%} of the outputs of {layer.name} are at their limits, where hardly any gradient "
                    "passes: the units are saturated. Smaller starting weights or relu help.",
                )

    def document(self) -> dict[str, object]:
        """What was seen so far, as JSON can say it."""
        return {"first": dict(self._first), "counts": dict(self._counts)}

    def restore(self, document: dict[str, dict[str, float]]) -> None:
        """Goes on where the rule stood whose `document` this is."""
        self._first = dict(document["first"])
        self._counts = {key: int(count) for key, count in document["counts"].items()}
