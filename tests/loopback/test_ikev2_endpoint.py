"""Two endpoints over real UDP sockets on loopback: HDR(A,0), SAi1, KEi, Ni --> ... and what surrounds it."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from ikev2_pair import HOST_A, HOST_B, PSK, Pair, free_ports, until

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.events import ChildSaFailed, ChildSaReady, Event, IkeSaEstablished
from ikev2.core.impair import Knob
from ikev2.core.manager import SaManager
from ikev2.core.types import Address
from ikev2.errors import BackendError, ConfigurationError, IkeError, LocalProtocolError
from ikev2.iana import ExchangeType
from ikev2.io import endpoint as endpoint_module
from ikev2.io.endpoint import Endpoint
from ikev2.io.entropy import SystemEntropy
from ikev2.io.keylog import ESP_TABLE, IKE_TABLE, KeyLogWriter
from ikev2.io.log import LogRing
from ikev2.ipsec.backend import Backend, BackendEvent, UnknownSpi
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork
from ikev2.wire.message import Message


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def packet(source: str, destination: str, payload: bytes = bytes(100)) -> bytes:
    addresses = (socket.inet_aton(source), socket.inet_aton(destination))
    return build_header(*addresses, 253, len(payload)) + payload


def test_up_list_traffic_down(pair: Pair) -> None:
    async def scenario() -> None:
        backend_a, backend_b = MemoryBackend(pair.network), MemoryBackend(pair.network)
        a, b = pair.endpoint("a", backend_a), pair.endpoint("b", backend_b)
        received: list[bytes] = []
        backend_b.on_packet = received.append
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            assert (info.state, info.local_id, info.remote_id) == ("ESTABLISHED", "a.example", "b.example")
            await until(lambda: b.sa_infos() and b.sa_infos()[0].children)
            (peer,) = b.sa_infos()
            assert (peer.spi_i, peer.spi_r) == (info.spi_i, info.spi_r)
            (child_a,), (child_b,) = info.children, peer.children
            assert (child_a.spi_in, child_a.spi_out) == (child_b.spi_out, child_b.spi_in)
            backend_a.send_packet(packet(HOST_A, HOST_B))
            assert received == [packet(HOST_A, HOST_B)]
            assert a.child_counters(child_a.spi_in).packets_out == 1
            assert b.child_counters(child_b.spi_in).packets_in == 1
            await a.down("lab")
            assert a.sa_infos() == []
            await until(lambda: not b.sa_infos())
            with pytest.raises(LocalProtocolError, match="no Child SA"):
                a.child_counters(child_a.spi_in)

    asyncio.run(scenario())


def test_up_again_is_the_same_sa_and_two_at_once_are_one(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            first, second = await asyncio.gather(a.up("lab", 30), a.up("net", 5))
            third = await a.up("lab", 30)
            assert first.spi_i == second.spi_i == third.spi_i
            assert len(a.sa_infos()) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_backend_is_told_before_it_opens_whether_to_drop_what_arrives_in_clear(pair: Pair, wanted: bool) -> None:
    told: list[bool] = []

    class Asked(MemoryBackend):
        def open(self) -> None:
            told.append(self.drops_clear)
            super().open()

    async def scenario() -> None:
        config = replace(pair.endpoint("a").config, drop_clear=wanted)
        async with pair.running(Endpoint(config, Asked(pair.network))):
            assert told == [wanted]

    asyncio.run(scenario())


def test_down_of_a_child_leaves_the_ike_sa(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            await b.down("net")
            await until(lambda: not a.sa_infos()[0].children)
            assert a.sa_infos()[0].state == b.sa_infos()[0].state == "ESTABLISHED"
            with pytest.raises(IkeError, match="net: no such SA is up"):
                await b.down("net")

    asyncio.run(scenario())


def test_a_wrong_secret_is_told_with_the_peers_reason(tmp_path: Path) -> None:
    pair = Pair(tmp_path, psk_b=b"another secret")

    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            with pytest.raises(IkeError, match="AUTHENTICATION_FAILED"):
                await a.up("lab", 30)
            assert a.sa_infos() == []

    asyncio.run(scenario())


def test_no_answer_is_told_and_names_that_are_not_configured_too(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"retransmit_timeout": "20ms", "retransmit_base": 1, "retransmit_tries": 2})

    async def scenario() -> None:
        a = pair.endpoint("a")
        async with pair.running(a):
            with pytest.raises(IkeError, match="the peer does not answer"):
                await a.up("lab", 30)
            assert a.socket_counters()["datagrams_sent"] == 3
            with pytest.raises(
                LocalProtocolError, match="there is no connection or child 'nobody'; connections: lab"
            ):
                await a.up("nobody")

    asyncio.run(scenario())


def test_a_lost_request_is_sent_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"retransmit_timeout": "20ms"})

    async def scenario() -> None:
        a = pair.endpoint("a", impairments=[Knob.parse("drop:IKE_AUTH:request:1")])
        b = pair.endpoint("b", impairments=[Knob.parse("drop:IKE_SA_INIT:response:1")])
        async with pair.running(a, b):
            assert (await a.up("lab", 30)).state == "ESTABLISHED"

    asyncio.run(scenario())


@pytest.mark.req("rfc7296-s2.23-04", "rfc7296-s2.23-07", "rfc7296-s2.23-12", "rfc7296-s2.23-13")
def test_behind_a_nat_ike_moves_to_the_other_port_and_esp_into_udp(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"encap": True})

    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            assert info.local == Address(HOST_A, pair.ports[1])
            assert info.remote == Address(HOST_B, pair.ports[1])
            assert info.children[0].encap
            assert b.sa_infos()[0].children[0].encap
            await a.down("lab")

    asyncio.run(scenario())


@pytest.mark.req("rfc7296-s2.23-11")
def test_behind_a_nat_keepalives_are_sent_and_ignored(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"encap": True, "keep_alive": "10ms"})

    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            await until(lambda: b.socket_counters()["nat_keepalives_received"] > 1)
            assert b.manager.dropped == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("connection", [{"keep_alive": "10ms"}, {"encap": True, "keep_alive": 0}])
def test_without_a_nat_or_when_they_are_switched_off_there_are_no_keepalives(
    tmp_path: Path, connection: dict[str, object]
) -> None:
    pair = Pair(tmp_path, connection=connection)

    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            sent = a.socket_counters()["datagrams_sent"]
            a._mappings._remind()
            assert not a._mappings.waiting
            assert a.socket_counters()["datagrams_sent"] == sent

    asyncio.run(scenario())


def test_an_initiator_can_begin_on_the_port_that_ike_shares_with_esp(tmp_path: Path) -> None:
    """Every message with the non-ESP marker, from IKE_SA_INIT on; and no ESP in UDP, as there is no NAT."""
    pair = Pair(tmp_path)
    pair.connection["remote_port"] = pair.ports[1]

    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            assert (info.local, info.remote) == (Address(HOST_A, pair.ports[1]), Address(HOST_B, pair.ports[1]))
            assert (info.nat_local, info.nat_remote, info.children[0].encap) == (False, False, False)
            (of_b,) = b.sa_infos()
            assert (of_b.local, of_b.remote) == (Address(HOST_B, pair.ports[1]), Address(HOST_A, pair.ports[1]))
            await a.down("lab")

    asyncio.run(scenario())


@pytest.mark.req("rfc7296-s2.23-01", "rfc7296-s2.23-02", "rfc7296-s2.23-03")
def test_requests_from_any_port_are_answered_to_that_port(pair: Pair) -> None:
    """HDR(A,0), SAi1, KEi, Ni from a port that is neither 500 nor 4500  -->  HDR(A,B), SAr1, KEr, Nr to that port."""
    (strange_port,) = free_ports(1)
    initiator = SaManager(
        pair.configuration("a").endpoint.connections, SystemEntropy(), MemoryBackend(MemoryNetwork())
    )
    initiator.initiate("lab", Address(HOST_B, pair.ports[0]), Address(HOST_A, strange_port), 0.0)
    (request,) = initiator.datagrams_to_send()

    async def scenario() -> None:
        b = pair.endpoint("b")
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as peer:
            peer.bind((HOST_A, strange_port))
            async with pair.running(b):
                await loop.sock_sendto(peer, request.data, (HOST_B, pair.ports[0]))
                async with asyncio.timeout(30):
                    data, source = await loop.sock_recvfrom(peer, 65535)
                assert source == (HOST_B, pair.ports[0])
                header = Message.parse(data).header
                assert (header.exchange_type, header.is_response) == (ExchangeType.IKE_SA_INIT, True)

    asyncio.run(scenario())


def test_a_wildcard_socket_answers_from_the_address_that_was_called(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    (port,) = free_ports(1)
    called = Address("127.0.0.77", pair.ports[0])
    initiator = SaManager(
        pair.configuration("a").endpoint.connections, SystemEntropy(), MemoryBackend(MemoryNetwork())
    )
    initiator.initiate("lab", called, Address(HOST_A, port), 0.0)
    (request,) = initiator.datagrams_to_send()
    pair.connection = {"local_addrs": ["%any"], "remote_addrs": ["%any"]}

    async def scenario() -> None:
        b = pair.endpoint("b")
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as peer:
            peer.bind((HOST_A, port))
            async with pair.running(b):
                await loop.sock_sendto(peer, request.data, called)
                async with asyncio.timeout(30):
                    _, source = await loop.sock_recvfrom(peer, 65535)
                assert source == called

    asyncio.run(scenario())


class RecordingBackend(MemoryBackend):
    """Writes down when a pair was installed, or refuses to."""

    def __init__(self, network: MemoryNetwork, story: list[str], refusal: Exception | None = None) -> None:
        super().__init__(network)
        self.story = story
        self.refusal = refusal

    def install(self, child: ChildSaParameters) -> None:
        if self.refusal:
            raise self.refusal
        self.story.append("install")
        super().install(child)


class StrayBackend(MemoryBackend):
    """Says that ESP came for nobody, once."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network)
        self.strays: list[UnknownSpi] = []
        self._read, self._write = os.pipe2(os.O_NONBLOCK)

    def stray(self, event: UnknownSpi) -> None:
        self.strays.append(event)
        os.write(self._write, b"x")

    def next_event(self) -> BackendEvent | None:
        return self.strays.pop() if self.strays and os.read(self._read, 1) else None

    def event_fd(self) -> int:
        return self._read


@pytest.mark.req("rfc7296-s2.21.4-08")
def test_esp_for_nobody_is_reported_to_the_peer_from_which_it_came(pair: Pair) -> None:
    async def scenario() -> None:
        backend = StrayBackend(pair.network)
        log_b = LogRing()
        a, b = pair.endpoint("a", backend), pair.endpoint("b", log=log_b)
        async with pair.running(a, b):
            await a.up("lab", 30)
            backend.stray(UnknownSpi(0xDEADBEEF, Address(HOST_A, 0), Address(HOST_B, 0)))
            await until(lambda: any("N(INVAL_SPI)" in str(line) for line in log_b.records()))
            assert len(a.sa_infos()) == len(b.sa_infos()) == 1

    asyncio.run(scenario())


def test_the_responder_installs_before_it_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        story: list[str] = []
        a, b = pair.endpoint("a"), pair.endpoint("b", RecordingBackend(pair.network, story))
        send = b._send
        monkeypatch.setattr(b, "_send", lambda datagram: (story.append("send"), send(datagram)))
        async with pair.running(a, b):
            await a.up("lab", 30)
            assert story == ["send", "install", "send"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [BackendError, LocalProtocolError])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_failed_install_takes_the_child_back_at_both_ends(pair: Pair, who: str, error: type[IkeError]) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        failing = RecordingBackend(pair.network, [], error("the kernel has no ESP"))
        a = pair.endpoint("a", failing if who == "a" else None)
        b = pair.endpoint("b", failing if who == "b" else None)
        broken = a if who == "a" else b
        broken.subscribe(events.append)
        async with pair.running(a, b):
            if who == "a":
                with pytest.raises(IkeError, match="Child SA net: the kernel has no ESP"):
                    await a.up("lab", 30)
            else:
                await a.up("lab", 30)
            await until(lambda: not (a.sa_infos()[0].children or b.sa_infos()[0].children))
            assert any(isinstance(event, ChildSaFailed) for event in events)
            assert not any(isinstance(event, ChildSaReady) for event in events)
            assert a.sa_infos()[0].state == "ESTABLISHED"

    asyncio.run(scenario())


@pytest.mark.req("rfc7296-s1.4.1-04")
def test_deletes_that_cross_take_the_outbound_sa_at_once(pair: Pair) -> None:
    class HalfClosing(RecordingBackend):
        def delete_outbound(self, child: ChildSaParameters) -> None:
            self.story.append(f"outbound {child.spi_out:08x}")
            super().delete_outbound(child)

        def delete(self, child: ChildSaParameters) -> None:
            self.story.append(f"pair {child.spi_out:08x}")
            super().delete(child)

    async def scenario() -> None:
        story: list[str] = []
        a, b = pair.endpoint("a", HalfClosing(pair.network, story)), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            (child,) = a.sa_infos()[0].children
            await asyncio.gather(a.down("net"), b.down("net"))
            wanted = f"{child.spi_out:08x}"
            assert story == ["install", f"outbound {wanted}", f"pair {wanted}"]

    asyncio.run(scenario())


def test_subscribers_hear_of_what_happens(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        events: list[Event] = []
        unsubscribe = a.subscribe(events.append)
        async with pair.running(a, b):
            await a.up("lab", 30)
            assert [type(event) for event in events] == [IkeSaEstablished, ChildSaReady]
            unsubscribe()
            await a.down("lab")
            assert len(events) == 2

    asyncio.run(scenario())


def test_stop_tells_the_peer(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        await b.start()
        await a.start()
        await a.up("lab", 30)
        await a.stop()
        await until(lambda: not b.sa_infos())
        await a.stop()  # a second time is no error
        await b.stop()

    asyncio.run(scenario())


def test_stop_does_not_wait_for_ever_for_a_peer_that_is_gone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        a = pair.endpoint("a", impairments=[Knob.parse("drop:INFORMATIONAL:request:*")])
        b = pair.endpoint("b")
        monkeypatch.setattr(endpoint_module, "STOP_S", 0.01)
        await b.start()
        await a.start()
        await a.up("lab", 30)
        await a.stop()
        assert "did not acknowledge" in str(a.log.records(1)[0])
        await b.stop()

    asyncio.run(scenario())


def test_an_address_that_is_not_ours_is_a_configuration_error(tmp_path: Path) -> None:
    pair = Pair(tmp_path, connection={"local_addrs": ["192.0.2.1"]})

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"connections.lab.local_addrs: cannot bind UDP 192.0.2.1:"):
            await pair.endpoint("a").start()

    asyncio.run(scenario())


def test_traffic_begins_a_child_sa_and_begins_it_anew_when_it_is_gone(tmp_path: Path) -> None:
    """With the IKE SA, on the IKE SA that is there, after the IKE SA was lost; until the trap is taken up."""
    pair = Pair(tmp_path)

    async def scenario() -> None:
        backend_a, backend_b = MemoryBackend(pair.network), MemoryBackend(pair.network)
        b = pair.endpoint("b", backend_b)
        pair.child = {"start_action": "trap"}
        a = pair.endpoint("a", backend_a)
        pair.child = {}
        without = pair.configuration("a").endpoint
        received: list[bytes] = []
        backend_b.on_packet = received.append
        async with pair.running(a, b):
            for number, take_away in enumerate((a.down, b.down, a.down), 1):
                backend_a.send_packet(packet(HOST_A, HOST_B))
                assert len(received) == number - 1, "the packet that begins it is dropped, and not sent in clear"
                await until(lambda: a.sa_infos() and a.sa_infos()[0].children and b.sa_infos()[0].children)
                backend_a.send_packet(packet(HOST_A, HOST_B))
                assert len(received) == number
                assert len(a.sa_infos()) == 1
                assert len(a.sa_infos()[0].children) == 1
                await take_away("net" if number == 1 else "lab")
                await until(lambda: not any(info.children for info in (*a.sa_infos(), *b.sa_infos())))
            await a.reload(without)
            backend_a.send_packet(packet(HOST_A, HOST_B))
            assert len(received) == 4, "nothing protects it any more"
            assert a.sa_infos() == []

    asyncio.run(scenario())


def test_a_backend_without_traps_is_refused_at_the_start(tmp_path: Path) -> None:
    class NoTraps(MemoryBackend):
        add_trap = Backend.add_trap

    pair = Pair(tmp_path, child={"start_action": "trap"})

    async def scenario() -> None:
        backend = NoTraps(pair.network)
        with pytest.raises(
            BackendError, match="the memory backend cannot begin a Child SA when traffic asks for it"
        ):
            await pair.endpoint("a", backend).start()
        assert backend.event_fd() is None, "closed again"

    asyncio.run(scenario())


def test_reload_adds_a_connection_and_leaves_sas_alone(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            (lab,) = a.config.connections
            pair.connection = {"local_addrs": ["127.0.0.3"]}
            (other,) = pair.configuration("a").endpoint.connections
            await a.reload(type(a.config)((lab, other)))
            assert len(a.sa_infos()) == 1
            assert {sock.local.host for sock in a._sockets.all()} == {HOST_A, "127.0.0.3"}

    asyncio.run(scenario())


def logged_keys(directory: Path) -> set[str]:
    """Every hex word of a key log that is long enough to be a key; without the SPIs."""
    words = set()
    for name in (IKE_TABLE, ESP_TABLE):
        for word in (directory / name).read_text().replace('"', "").replace("\n", ",").split(","):
            hexits = word.removeprefix("0x")
            if len(hexits) >= 32 and set(hexits) <= set("0123456789abcdef"):
                words.add(hexits)
    return words


@pytest.mark.parametrize("proposals", ["aes256gcm16-prfsha384-curve25519", "aes128-sha256-ecp256"])
def test_no_key_is_in_a_log_or_a_repr(tmp_path: Path, proposals: str, capfd: pytest.CaptureFixture[str]) -> None:
    esp = "aes256gcm16" if "gcm" in proposals else "aes128-sha256"
    pair = Pair(tmp_path, connection={"proposals": [proposals]}, child={"esp_proposals": [esp]})

    async def scenario() -> str:
        said: list[str] = []
        keylog = KeyLogWriter(tmp_path / "keys")
        a, b = pair.endpoint("a", keylog=keylog), pair.endpoint("b")
        for one in (a, b):
            one.subscribe(lambda event: said.append(repr(event)))
            one.log.subscribe(lambda record: said.append(repr(record)))
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            handle = a.exporter.open((info.spi_i, info.spi_r))
            for one in (a, b):
                said += [repr(one), repr(one.config), repr(one.sa_infos()), repr(one.exporter), repr(handle)]
                for sa in one.manager.sas:
                    said += [repr(sa), repr(sa.keys), repr(sa.suite), repr(sa.children), repr(vars(sa))]
            await a.down("lab")
        keylog.close()
        return "\n".join(said)

    text = asyncio.run(scenario())
    text += "".join(capfd.readouterr())
    keys = logged_keys(tmp_path / "keys")
    assert len(keys) >= 4
    for key in (*keys, PSK.hex()):
        assert key not in text.lower()
        assert repr(bytes.fromhex(key)) not in text
    assert PSK.decode() not in text
