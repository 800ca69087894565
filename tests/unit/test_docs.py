"""The documentation names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [file for folder in ("common", "service", "worker") for file in (ROOT / folder).rglob("*.py")]
_CODE = re.compile(
    r'\bcode="([a-z_]+)"|code: ClassVar\[str\] = "([a-z_]+)"|Fault\([^,]+, "([a-z_]+)",|\b[45]\d\d, "([a-z_]+)",'
)
INTERNAL = {"halted", "fence_lost", "cannot_start", "conflict", "cancel_asked"}
"""Codes that no caller ever sees."""


def codes() -> set[str]:
    found = (match for file in SOURCES for match in _CODE.findall(file.read_text()))
    return {next(filter(None, groups)) for groups in found} - INTERNAL


def test_every_stable_code_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "errors.md").read_text()))
    assert len(codes()) > 30
    assert codes() - documented == set()


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_every_link_of_the_documentation_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
