"""The API that all tests share."""

from __future__ import annotations

from fastapi.testclient import TestClient

from service.quick_lane import QuickLane


def app_of(api: TestClient) -> QuickLane:
    """The API itself, whose services a test may replace."""
    assert isinstance(api.app, QuickLane)
    return api.app
