"""A real set of 60,000 images through the whole stack."""

from __future__ import annotations

import pytest

from tests.conftest import RunningStack
from tests.integration.data import train
from tests.integration.mnist import EPOCHS, FOLDER, accuracy, request, upload_mnist

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason=f"needs MNIST in {FOLDER}"),
]


def test_mnist_reaches_97_5_percent_within_five_epochs(stack: RunningStack) -> None:
    job = train(stack.client, request(upload_mnist(stack.client), seed=1))
    assert job["state"] == "succeeded"
    assert job["progress"]["epoch"] <= EPOCHS
    assert accuracy(stack.client, job["model_id"]) >= 0.975
