"""Choices that differ between devices follow the device that the user has set."""

import jax
import pytest

from partoken_jax.nn.platform import target_platform


@pytest.mark.parametrize("device", ["cpu", jax.devices("cpu")[0]], ids=["by name", "by device"])
def test_the_default_device_comes_before_the_default_backend(monkeypatch, device):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert target_platform() == "gpu"
    with jax.default_device(device):
        assert target_platform() == "cpu"
    assert target_platform() == "gpu"


def test_the_devices_of_a_mesh_come_first(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert target_platform(jax.make_mesh((1,), ("data",), devices=jax.devices("cpu")[:1])) == "cpu"
