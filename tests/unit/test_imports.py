"""Who may import whom: service → common ← worker, and Ray in one place only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "service", "worker")
WEB = ("fastapi", "starlette", "uvicorn")
FORBIDDEN = {
    "common": ("service", "worker", "ray", *WEB),
    "service": ("worker", "ray"),
    "worker": ("service", *WEB),
}
SOURCES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(module: ast.Module) -> Iterator[str]:
    """Every module that is imported, at the top or inside of functions, absolute names."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            assert node.module is not None
            yield node.module


def calls_by_name(module: ast.Module) -> Iterator[str]:
    """Modules that are imported by a text."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield ast.unparse(node)


def test_there_is_something_to_check() -> None:
    assert {path.parts[0] for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    module = tree(path)
    forbidden = FORBIDDEN[path.parts[0]]
    assert [name for name in imported(module) if name.partition(".")[0] in forbidden] == []
    assert list(calls_by_name(module)) == []


def test_the_walk_sees_imports_of_every_form() -> None:
    module = ast.parse("import ray.data as d\ndef f():\n    from ray import remote\n    __import__('ray')")
    assert list(imported(module)) == ["ray.data", "ray"]
    assert list(calls_by_name(module)) == ["__import__('ray')"]


def test_ray_is_spoken_to_in_one_module_and_its_readers_that_unpickle_nowhere() -> None:
    users = {str(path) for path in SOURCES if any(name.partition(".")[0] == "ray" for name in imported(tree(path)))}
    assert users == {"worker/actors.py"}
    everything = {name for path in SOURCES for name in imported(tree(path))}
    assert not {
        name for name in everything if name.startswith(("ray.data", "ray.train", "ray.tune", "ray.cloudpickle"))
    }


def test_only_one_module_makes_actors() -> None:
    users = {
        str(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "ray.remote"
    }
    assert users == {"worker/actors.py"}


def test_nothing_unpickles() -> None:
    everything = {name.partition(".")[0] for path in SOURCES for name in imported(tree(path))}
    assert not everything & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("service.app", ("ray", "worker")),
        ("service.cli", ("ray", "worker", "fastapi", "polars")),  # a command is there at once
        ("worker.supervisor", ("ray", *WEB, "service")),
        ("common.store.stores", ("ray", *WEB, "service", "worker")),
    ],
)
def test_importing_a_module_loads_none_of_what_it_must_not(module: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & set(absent)
