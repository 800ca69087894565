"""A virtual environment for every peer, below `.bench/`: their pins disagree with ours and with each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contender import NotAvailable, Say

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"
PEERS = Path(__file__).parent / "peers"
CONSTRAINTS = (ROOT / "constraints.txt", PEERS / "constraints.txt")
TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True)
class Environment:
    """Packages, pinned by the constraints with all they bring."""

    name: str
    packages: tuple[str, ...]
    constraints: tuple[Path, ...] = CONSTRAINTS


TORCH = Environment("torch", ("torch", "numpy"))
RAY = Environment("ray", ("ray[train]", "torch", "numpy"))
SCIKIT_LEARN = Environment("scikit-learn", ("scikit-learn", "numpy"))
H2O = Environment("h2o", ("h2o",))
RAY_SERVE = Environment("ray-serve", ("ray[serve]", "numpy", "orjson"))
MLSERVER = Environment("mlserver", ("mlserver", "numpy"), (PEERS / "mlserver.txt",))


_made: dict[Environment, Path | NotAvailable] = {}


def python_of(environment: Environment | None, say: Say) -> Path:
    """The interpreter of an environment, made if it is not there, once per run; without one, that of the project.

    Raises:
        NotAvailable: it cannot be made.

    """
    if environment is None:
        return Path(sys.executable)
    if environment not in _made:
        try:
            _made[environment] = _make(environment, say)
        except NotAvailable as error:
            _made[environment] = error
    made = _made[environment]
    if isinstance(made, NotAvailable):
        raise made
    return made


def _make(environment: Environment, say: Say) -> Path:
    folder = FOLDER / environment.name
    python, marker = folder / "bin" / "python", folder / "installed"
    wanted = _fingerprint(environment)
    if not marker.exists() or marker.read_text() != wanted:
        say(f"Installing {', '.join(environment.packages)} into {folder.relative_to(ROOT)} (some minutes, once) …")
        _run([sys.executable, "-m", "venv", str(folder)])
        limits = [argument for file in environment.constraints for argument in ("--constraint", str(file))]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *limits, *environment.packages])
        marker.write_text(wanted)
    return python


def _fingerprint(environment: Environment) -> str:
    """Changes when what is to be installed may have changed."""
    parts = (sys.version, *environment.packages, *(file.read_text() for file in environment.constraints))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"its installation took over {TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise NotAvailable((errors or lines or ["its installation failed"])[-1])
