"""Which BLAS a process computes with; for environments that have threadpoolctl."""

from __future__ import annotations

from threadpoolctl import threadpool_info


def blas() -> str:
    """Library, version, kernels and threads of all that are loaded, each kind once."""
    found = [
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')} with {info['num_threads']} threads"
        for info in threadpool_info()
        if info["user_api"] == "blas"
    ]
    return " and ".join(dict.fromkeys(found))
