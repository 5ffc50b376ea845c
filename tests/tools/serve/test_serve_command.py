"""The command `serve`: what it refuses before it loads anything."""

import socket

import pytest

from litpool.tools.serve import command


def refused(result, *parts):
    status, _, err = result
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_a_missing_extra_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    refused(
        cli("serve", "--ckpt_path", "missing.ckpt"), "pip install -c constraints.txt -e '.[serve]'"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "needs --ckpt_path"),
        (["--ckpt_path", "x", "--port", "70000"], "port=70000"),
        (["--ckpt_path", "x", "--port", "no"], "port"),
        (["--ckpt_path", "x", "--max_texts", "0"], "max_texts=0"),
        (["--ckpt_path", "x", "--max_bytes", "-1"], "max_bytes=-1"),
        (["--ckpt_path", "x", "--max_waiting", "0"], "max_waiting=0"),
        (["--ckpt_path", "x", "--host", "192.0.2.1", "--port", "0"], "host=192.0.2.1"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_one_line(cli, monkeypatch, options, expected):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    refused(cli("serve", *options), expected)


def test_a_port_in_use_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused(cli("serve", "--ckpt_path", "x", "--port", port), f"port={port}")
