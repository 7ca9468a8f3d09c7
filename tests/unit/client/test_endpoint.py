"""What a user may write as the endpoint, and what is said about everything else."""

from __future__ import annotations

import pytest

from helios.endpoint import DEFAULT_ENDPOINT, Endpoint
from helios.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "target", "tls"),
    [
        (DEFAULT_ENDPOINT, "localhost:4317", False),
        ("localhost:4317", "localhost:4317", False),
        ("localhost", "localhost:4317", False),
        ("collector.example.com:443", "collector.example.com:443", False),
        ("http://collector", "collector:4317", False),
        ("https://collector", "collector:4317", True),
        ("HTTPS://collector:14317/", "collector:14317", True),
        ("  http://10.0.0.1:4317  ", "10.0.0.1:4317", False),
        ("[::1]", "[::1]:4317", False),
        ("[::1]:4317", "[::1]:4317", False),
        ("https://[2001:DB8::1]:4317", "[2001:db8::1]:4317", True),
        ("helios_collector:65535", "helios_collector:65535", False),
    ],
)
def test_good(text: str, target: str, tls: bool) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.target, endpoint.tls) == (target, tls)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no host"),
        ("http://", "no host"),
        (":4317", "no host"),
        ("grpc://collector:4317", "scheme 'grpc'"),
        ("unix:///run/helios.sock", "scheme 'unix'"),
        ("://collector", "scheme ''"),
        ("collector:", "the port ''"),
        ("collector:0", "the port '0'"),
        ("collector:65536", "the port '65536'"),
        ("collector:-1", "the port '-1'"),
        ("collector:٤٣١٧", "the port"),
        ("collector:4317:1", "in brackets"),
        ("::1", "in brackets"),
        ("::1:4317", "in brackets"),
        ("[::1", "cannot be read"),
        ("[::g]:4317", "no IPv6 address"),
        ("[10.0.0.1]:4317", "no IPv6 address"),
        ("http://collector:4317/v1/logs", "'/' after its host"),
        ("collector/v1", "'/' after its host"),
        ("http://collector?x=1", "'?' after its host"),
        ("my collector", "' ' after its host"),
        ("-collector", "a host named '-collector'"),
        ("cöllector", "a host named"),
    ],
)
def test_bad(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("port", [8080, 8000, 8001])
@pytest.mark.parametrize("form", ["localhost:{}", "http://localhost:{}", "https://[::1]:{}"])
def test_an_http_port_is_refused_with_the_right_one(form: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f":{port} is .* port.*4317"):
        Endpoint.parse(form.format(port))


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse("https://me:hunter2@collector")
    assert "hunter2" not in str(caught.value)
    assert "api_key" in str(caught.value)


def test_certificate_files_need_tls_and_each_other() -> None:
    endpoint = Endpoint.parse("https://collector", ca_file="ca.pem", cert_file="me.pem", key_file="me.key")
    assert (endpoint.ca_file, endpoint.cert_file, endpoint.key_file) == ("ca.pem", "me.pem", "me.key")
    with pytest.raises(ConfigError, match="both cert_file and key_file"):
        Endpoint.parse("https://collector", cert_file="me.pem")
    with pytest.raises(ConfigError, match="write https://"):
        Endpoint.parse("collector:4317", ca_file="ca.pem")


@pytest.mark.parametrize(("text", "loopback"), [("127.1.2.3", True), ("[::1]", True), ("127.example.com", False)])
def test_loopback(text: str, loopback: bool) -> None:
    assert Endpoint.parse(text).is_loopback is loopback
