"""TLS to Redis: a private CA is trusted if it is named, and what does not fit is refused in one clear line."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobkit.errors import StoreRefused, StoreUnavailable
from jobkit.store.redis_client import RedisClient
from local_stack.ports import free_port
from local_stack.redis import Redis as RedisNode

SIGNS = "keyUsage=critical,keyCertSign,cRLSign"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


@dataclass(frozen=True)
class Encrypted:
    """A Redis that speaks TLS on one port, for the name ``localhost``, and plainly on another."""

    tls_port: int
    plain_port: int
    authority: Path
    stranger: Path


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30, cwd=folder)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ca", "stranger"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        # Python 3.13 and later verify strictly: a CA has to say what its key is for.
        openssl("req", "-x509", *EC, *files, "-subj", f"/CN={name}", *("-addext", SIGNS), folder=folder)
    openssl("req", *EC, "-keyout", "redis.key", "-out", "redis.csr", "-subj", "/CN=redis", folder=folder)
    names = ["subjectAltName=DNS:localhost", "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid"]
    (folder / "names").write_text("\n".join(names))
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", "redis.pem")
    openssl("x509", "-req", "-in", "redis.csr", *signed, folder=folder)
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(folder / "redis.pem"),
        "tls-key-file": str(folder / "redis.key"),
        "tls-ca-cert-file": str(folder / "ca.pem"),
        "tls-auth-clients": "no",
    }
    node = RedisNode(folder / "node", options=options)
    try:
        node.start()
        yield Encrypted(port, node.ports["clients"], folder / "ca.pem", folder / "stranger.pem")
    finally:
        node.kill()


def refusal(url: str) -> str:
    client = RedisClient(url, 5)
    with pytest.raises(StoreRefused) as refused:
        client.ask("PING")
    client.close()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_private_ca_is_trusted_if_it_is_named(encrypted: Encrypted) -> None:
    client = RedisClient(f"rediss://localhost:{encrypted.tls_port}/0?ssl_ca_certs={encrypted.authority}", 5)
    assert client.ask("PING")
    client.close()


@pytest.mark.parametrize("named", [True, False], ids=["another CA", "the system's CAs"])
def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(encrypted: Encrypted, named: bool) -> None:
    option = f"?ssl_ca_certs={encrypted.stranger}" if named else ""
    line = refusal(f"rediss://localhost:{encrypted.tls_port}/0{option}")
    assert "its certificate is not trusted" in line
    assert "ssl_ca_certs" in line


def test_a_certificate_for_another_host_is_refused(encrypted: Encrypted) -> None:
    line = refusal(f"rediss://127.0.0.1:{encrypted.tls_port}/0?ssl_ca_certs={encrypted.authority}")
    assert "for another host name" in line


@pytest.mark.parametrize("encrypting", [True, False])
def test_encryption_on_one_side_alone_is_told_with_a_hint(encrypted: Encrypted, encrypting: bool) -> None:
    url = f"rediss://localhost:{encrypted.plain_port}/0" if encrypting else f"redis://localhost:{encrypted.tls_port}/0"
    client = RedisClient(url, 1)
    # Redis 7 waits for the rest of what it takes for a command; Redis 8 answers, so that it is a refusal.
    with pytest.raises(StoreUnavailable, match=r"port (speaks|wants) TLS|does not speak TLS"):
        client.ask("PING")
    client.close()
