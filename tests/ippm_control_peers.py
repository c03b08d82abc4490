"""Both ends of a TWAMP-Control connection in one process: no socket, a clock that the test moves, counted entropy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ippm.core.control_client import ControlClient, ControlClientConfig, SessionWish
from ippm.core.control_events import (
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionAccepted,
    SessionRejected,
    Started,
    TestSession,
)
from ippm.core.server import ControlServer
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import KeyProvider, NoProvider, PassphraseProvider, SessionKeys, pbkdf2_token_key
from ippm.errors import NoSecret, RefuseSession
from ippm.iana import Mode

CLIENT = Endpoint("192.0.2.1", 40000)
SERVER = Endpoint("192.0.2.2", 862)
NTP_NOW = 0xE0000000_80000000
SPI_I = bytes.fromhex("0123456789abcdef")
SPI_R = bytes.fromhex("fedcba9876543210")


class CountedEntropy:
    """Octets that differ from call to call and repeat from run to run."""

    def __init__(self, seed: str = "") -> None:
        self.seed = seed
        self.calls = 0

    def octets(self, n: int) -> bytes:
        self.calls += 1
        return self.at(self.calls, n, self.seed)

    @staticmethod
    def at(call: int, n: int, seed: str = "") -> bytes:
        """What a call gave."""
        return hashlib.shake_256(f"{seed}/{call}".encode()).digest(n)


@dataclass
class Hooks:
    """A server's surroundings: gives ports one after the other, or refuses."""

    port: int = 18760
    refusal: RefuseSession | None = None
    opened: list[TestSession] = field(default_factory=list)

    def ntp_time(self) -> int:
        return NTP_NOW

    def open_session(self, session: TestSession) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(session)
        self.port += 1
        return session.reflector.port or self.port


class DerivedSecret:
    """A ControlSecret as an IKEv2 binding makes one, with several token keys when asked."""

    ikev2_derived = True
    derivation: str | None = "rfc7717"
    peer_identity: str | None = "peer.example"

    def __init__(self, secret: bytes, key_id: bytes, decoys: int = 0) -> None:
        self.secret = secret
        self.key_id = key_id
        self.decoys = decoys
        self.closed = 0

    def token_keys(self, salt: bytes, count: int) -> list[bytes]:
        decoys = [bytes([n + 1]) * 16 for n in range(self.decoys)]
        return [*decoys, pbkdf2_token_key(self.secret, salt, count)]

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        return None

    def close(self) -> None:
        self.closed += 1


class DerivedProvider:
    """A KeyProvider with IKE SAs by SPI pair; nothing of IKEv2 is behind it."""

    offers_ikev2 = True

    def __init__(self, secrets: dict[bytes, bytes], count: int | None = 1024, decoys: int = 0) -> None:
        self.secrets = secrets
        self.count = count
        self.decoys = decoys
        self.given: list[DerivedSecret] = []
        self.asked: list[tuple[bytes, bool, str, str]] = []

    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> DerivedSecret:
        spis, secret = next(iter(self.secrets.items()))
        self.given.append(DerivedSecret(secret, spis + bytes(64)))
        return self.given[-1]

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> DerivedSecret:
        self.asked.append((key_id, ikev2_derived, client_address, protocol))
        if not ikev2_derived:
            raise NoSecret(1, "no passphrases here")
        if key_id[:16] not in self.secrets:
            raise NoSecret(6, f"no IKE SA with SPIi {key_id[:8].hex()} SPIr {key_id[8:16].hex()}")
        self.given.append(DerivedSecret(self.secrets[key_id[:16]], key_id, self.decoys))
        return self.given[-1]


def derived_provider(**options: int | None) -> DerivedProvider:
    return DerivedProvider({SPI_I + SPI_R: b"\x00\n\r shared secret \xff"}, **options)  # type: ignore[arg-type]


def passphrases() -> PassphraseProvider:
    return PassphraseProvider({"alice": "correct horse"})


class Pair:
    """A client and a server with a memory pipe between them."""

    def __init__(
        self,
        client: ControlClientConfig | None = None,
        server: ControlServerConfig | None = None,
        client_provider: KeyProvider | None = None,
        server_provider: KeyProvider | None = None,
    ) -> None:
        self.now = 1000.0
        self.hooks = Hooks()
        self.client = ControlClient(
            client or ControlClientConfig(),
            client_provider or NoProvider(),
            CountedEntropy("client"),
            local=CLIENT,
            remote=SERVER,
            now=self.now,
        )
        self.server = ControlServer(
            server or ControlServerConfig(count=1024),
            server_provider or NoProvider(),
            self.hooks,
            CountedEntropy("server"),
            local=SERVER,
            remote=CLIENT,
            now=self.now,
        )
        self.to_client = b""
        self.to_server = b""

    def run(self, piece: int = 1 << 20) -> None:
        """Carry octets both ways, in pieces, until nothing is left to carry."""
        while True:
            down, up = self.server.data_to_send(), self.client.data_to_send()
            if not down and not up:
                return
            self.to_client += down
            self.to_server += up
            for at in range(0, len(down), piece):
                self.client.receive_data(down[at : at + piece], self.now)
            for at in range(0, len(up), piece):
                self.server.receive_data(up[at : at + piece], self.now)

    def client_events(self) -> list[object]:
        return drain(self.client)

    def server_events(self) -> list[object]:
        return drain(self.server)


def drain(role: ControlClient | ControlServer) -> list[object]:
    events: list[object] = []
    while (event := role.next_event()) is not None:
        events.append(event)
    return events


def pair_in_mode(mode: Mode, **server: object) -> Pair:
    """A pair that is set up in a security mode, with IKEv2-derived keys when that bit is in `mode`."""
    if mode & Mode.IKEV2_DERIVED:
        providers: tuple[KeyProvider, KeyProvider] = (derived_provider(), derived_provider())
    elif mode.keyed:
        providers = (passphrases(), passphrases())
    else:
        providers = (NoProvider(), NoProvider())
    config = ControlServerConfig(**{"count": 1024, **server})  # type: ignore[arg-type]
    return Pair(ControlClientConfig(mode.security), config, *providers)


WISH = SessionWish(Endpoint(CLIENT.host, 18700), timeout_ns=2_000_000_000, padding_octets=27, dscp=46)

__all__ = [
    "CLIENT",
    "NTP_NOW",
    "SERVER",
    "SPI_I",
    "SPI_R",
    "WISH",
    "Connected",
    "ConnectionClosed",
    "CountedEntropy",
    "DerivedProvider",
    "Hooks",
    "Pair",
    "SessionAccepted",
    "SessionRejected",
    "Started",
    "derived_provider",
    "drain",
    "pair_in_mode",
    "passphrases",
]
