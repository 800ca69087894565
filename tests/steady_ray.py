"""For supervisors without Ray: a cluster that is always there."""

from __future__ import annotations

from collections.abc import Mapping


class SteadyRay:
    """See `worker.ray_node.RayCluster`."""

    address = "ray"
    environment: Mapping[str, str] = {}

    def keep(self) -> bool:
        """It is there."""
        return True

    def stop(self) -> None:
        """Nothing was started."""
