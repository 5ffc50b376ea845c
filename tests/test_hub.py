"""Without a network, nothing waits for the Hub; with a proxy, its name need not be known here."""

import socket
import urllib.request

import pytest
from huggingface_hub import constants

from litpool import hub


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    hub.check_network.cache_clear()
    yield
    hub.check_network.cache_clear()


def no_network(*_):
    raise socket.gaierror("Name or service not known")


@pytest.mark.parametrize(("lookup", "offline"), [(no_network, True), (lambda *_: [], False)])
def test_a_name_that_cannot_be_looked_up_switches_to_offline(monkeypatch, lookup, offline):
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    hub.check_network()
    assert constants.HF_HUB_OFFLINE is offline


def test_a_proxy_looks_the_name_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub.check_network()
    assert constants.HF_HUB_OFFLINE is False
