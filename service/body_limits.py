"""How large the body of a request may be."""

from __future__ import annotations

from starlette.types import Scope

from common.settings import Settings
from service.routes.file_predictions import is_streamed


def most_bytes(settings: Settings, scope: Scope) -> int:
    """Most bytes of the body of a request, by its path; what a route keeps on disk may be larger than what it holds."""
    path: str = scope["path"].rstrip("/")
    if path == "/v1/datasets" or (path.endswith("/predict") and is_streamed(scope)):
        return settings.max_upload_bytes
    if path == "/v1/models/import":
        return settings.max_model_bytes
    if path.startswith("/v2/") and path.endswith("/infer"):
        return max(settings.max_tensor_bytes, settings.max_predict_bytes)
    if path.endswith(("/predict", "/invocations")):
        return settings.max_predict_bytes
    return settings.max_request_bytes
