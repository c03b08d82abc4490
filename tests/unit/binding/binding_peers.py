"""Two hosts without a socket: IKE over sim.network, TWAMP-Control over ippm_control_peers, the binding between them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from ippm_control_peers import CLIENT, SERVER, Connected, CountedEntropy, Hooks, Pair, drain
from sim.network import A, B, Host, Network, connected, pair, up

from binding.provider import IkeKeyProvider, KeyOptions
from ikev2.core.child_negotiation import ChildSa
from ikev2.crypto.secret import SecretOctets
from ikev2.embedding import KeyExporter, NoSuchSa, prf_by_name
from ippm import KeyProvider
from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import ClientRefused, ClientSetUp, ConnectionClosed
from ippm.core.server import ControlServer
from ippm.core.server_policy import ControlServerConfig
from ippm.errors import IppmError
from ippm.iana import Mode

SPI_I = bytes.fromhex("0011223344556677")
SPI_R = bytes.fromhex("8899000a0d00aabb")
ROOT_KEY = b"\x5a" * 32


@dataclass
class FakeHandle:
    """A key handle whose key the test knows."""

    derivation: str = "rfc7717"
    prf_name: str = "hmac-sha2-256"
    spi_i: bytes = SPI_I
    spi_r: bytes = SPI_R
    local_identity: str = "here.example"
    peer_identity: str = "peer.example"
    peer_address: str = A
    child_spi: int | None = None
    label: bytes = b"IPPM"
    contexts: list[bytes] = field(default_factory=list)
    closed: int = 0

    def secret(self, context: bytes) -> bytes:
        self.contexts.append(context)
        return prf_by_name(self.prf_name)(ROOT_KEY, context)

    def close(self) -> None:
        self.closed += 1


class FakeExporter:
    """An exporter with one SA; what was asked of it, and what it gave."""

    def __init__(self, error: Exception | None = None, **handle: object) -> None:
        self.error = error
        self.handle = handle
        self.asked: list[tuple[object, str, int | None, bool]] = []
        self.given: list[FakeHandle] = []

    def open(
        self,
        sa: tuple[bytes, bytes] | str,
        derivation: str = "rfc7717",
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> FakeHandle:
        self.asked.append((sa, derivation, child_spi, server_is_local))
        if self.error is not None:
            raise self.error
        handle = FakeHandle(derivation, **self.handle)  # type: ignore[arg-type]
        if sa not in ((handle.spi_i, handle.spi_r), B, A):
            raise NoSuchSa("no established IKE SA")
        self.given.append(handle)
        return handle


def control(
    client: KeyProvider | None,
    server: KeyProvider | None,
    mode: Mode = Mode.ENCRYPTED,
    *,
    require_ikev2: bool = False,
    seed: str = "",
    **rules: object,
) -> Pair:
    """A Control connection from A to B, run until it is quiet; another `seed`, other random octets."""
    made = Pair(
        ControlClientConfig(mode, require_ikev2=require_ikev2),
        ControlServerConfig(**{"count": 1024, **rules}),  # type: ignore[arg-type]
        client,
        server,
    )
    made.client._entropy = CountedEntropy(f"client{seed}")
    made.server._entropy = CountedEntropy(f"server{seed}")
    made.run()
    return made


def bare_server(provider: KeyProvider, **rules: object) -> ControlServer:
    """A server's end alone, for messages that no client of ours would send."""
    config = ControlServerConfig(**{"count": 1024, **rules})  # type: ignore[arg-type]
    return ControlServer(config, provider, Hooks(), CountedEntropy("bare"), local=SERVER, remote=CLIENT, now=0.0)


AtServer = ClientSetUp | ClientRefused | ConnectionClosed | None


def outcome(made: Pair) -> tuple[Connected | IppmError | None, AtServer]:
    """What the client and the server say of the set-up; None: nothing yet."""
    at_client: Connected | IppmError | None = None
    for event in drain(made.client):
        if isinstance(event, Connected):
            at_client = event
        elif isinstance(event, ConnectionClosed):
            at_client = event.error
    at_server = next(iter(drain(made.server)), None)
    assert at_server is None or isinstance(at_server, ClientSetUp | ClientRefused | ConnectionClosed)
    return at_client, at_server


@dataclass
class Ends:
    """Two hosts with an IKE SA between them, and an exporter each."""

    network: Network
    a: Host
    b: Host
    at_a: KeyExporter
    at_b: KeyExporter

    @property
    def spis(self) -> tuple[bytes, bytes]:
        return self.a.sa.spi_i, self.a.sa.spi_r

    def providers(
        self, options: KeyOptions | None = None, server: KeyOptions | None = None
    ) -> tuple[IkeKeyProvider, IkeKeyProvider]:
        """The client's at A and the server's at B; both with the client's options unless the server's are given."""
        mine = options or KeyOptions()
        return IkeKeyProvider(self.at_a, mine), IkeKeyProvider(self.at_b, server or mine)

    def control(self, options: KeyOptions | None = None, server: KeyOptions | None = None, **how: object) -> Pair:
        """A Control connection with keys from the SA."""
        return control(*self.providers(options, server), **how)  # type: ignore[arg-type]

    def delete_ike_sa(self) -> None:
        """Both ends forget the SA; a second passes."""
        self.a.manager.delete(self.a.sa, self.network.now)
        self.network.run(self.network.now + 1)
        assert self.a.manager.sas == self.b.manager.sas == []

    def delete_child(self) -> None:
        """The IKE SA stays, without its Child SA."""
        (child,) = self.a.installed.values()
        self.a.manager.delete_child(child, self.network.now)
        self.network.run(self.network.now + 1)
        assert not self.a.sa.children
        assert not self.b.sa.children

    def add_child(self, keymat: bytes, spi_a: int, spi_b: int) -> None:
        """A second Child SA at both ends, newer than the first: put there, as CREATE_CHILD_SA would."""
        for host, spi_in, spi_out in ((self.a, spi_a, spi_b), (self.b, spi_b, spi_a)):
            first = next(iter(host.sa.children.values()))
            params = replace(first.params, spi_in=spi_in, spi_out=spi_out)
            host.sa.children[spi_in] = ChildSa(first.config, params, SecretOctets("KEYMAT", keymat))


def ends(*, client_is_responder: bool = False, sa_grace_s: float = 60.0, **options: object) -> Ends:
    """A is the Control-Client's host; the IKE SA is A's initiative unless `client_is_responder`."""
    if client_is_responder:
        network, a, b = pair(**options)  # type: ignore[arg-type]
        up(network, b, until=5.0)
    else:
        network, a, b = connected(**options)  # type: ignore[arg-type]
    made = [KeyExporter(host.manager, sa_grace_s=sa_grace_s) for host in (a, b)]
    return Ends(network, a, b, *made)


class Everything(logging.Handler):
    """Keeps every log line of every logger, formatted."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage() + repr(record.args))
