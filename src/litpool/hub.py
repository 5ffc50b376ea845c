"""The Hugging Face Hub: do not wait for it if this machine has no network."""

import functools
import socket
import urllib.request
from urllib.parse import urlparse

from huggingface_hub import constants


@functools.cache  # one lookup per process
def check_network() -> None:
    """Switch the Hub's libraries to offline mode if the Hub's name cannot be looked up.

    They still use what they have downloaded before. Without this, they try again for half a minute
    before they report an error. A proxy looks names up itself, so nothing is done if there is one.
    """
    if urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
