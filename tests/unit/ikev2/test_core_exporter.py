"""Handles on keys: what they give, what they refuse, and how long they live."""

from __future__ import annotations

import pytest
from sim.network import A, B, Host, Network, connected, pair, up

from ikev2.core.exporter import KeyExporter, NoSuchSa
from ikev2.errors import LocalProtocolError


def exporters(network: Network, a: Host, b: Host) -> tuple[KeyExporter, KeyExporter]:
    return KeyExporter(a.manager), KeyExporter(b.manager)


def spis(host: Host) -> tuple[bytes, bytes]:
    return host.sa.spi_i, host.sa.spi_r


SID = bytes(range(16))


@pytest.mark.parametrize("proposal", ["prfsha1", "prfsha256", "prfsha384", "prfsha512"])
def test_rfc7717_secret_is_the_whole_output_of_the_negotiated_prf_at_both_ends(proposal: str) -> None:
    from sim.network import proposals

    changes: dict[str, object] = {"proposals": proposals(f"aes128gcm16-{proposal}-curve25519")}
    network, a, b = connected(a=changes, b=changes)
    client, server = exporters(network, a, b)
    handle, other = client.open(B), server.open(spis(b))
    suite, keys = a.sa.need_keys()
    assert handle.secret(b"IPPM") == other.secret(b"IPPM") == suite.prf(keys.sk_d.octets, b"IPPM")
    assert handle.prf_name == other.prf_name == suite.prf.name
    assert (handle.local_identity, handle.peer_identity) == (other.peer_identity, other.local_identity)
    assert (handle.peer_address, other.peer_address) == (B, A)
    assert (handle.spi_i, handle.spi_r) == (other.spi_i, other.spi_r)


@pytest.mark.parametrize("context", [b"", b"IPP", b"IPPM\0", b"ippm", SID, bytes(17), bytes(64)])
def test_rfc7717_refuses_every_context_but_the_label(context: bytes) -> None:
    network, a, b = connected()
    handle = exporters(network, a, b)[0].open(B)
    with pytest.raises(LocalProtocolError):
        handle.secret(context)


@pytest.mark.parametrize("context", [b"", b"IPPM", bytes(15), bytes(17), bytes(65)])
@pytest.mark.parametrize("derivation", ["keymat-sid", "skd-sid"])
def test_draft_forms_take_sixteen_octets_only(derivation: str, context: bytes) -> None:
    network, a, b = connected()
    handle = exporters(network, a, b)[0].open(B, derivation)
    with pytest.raises(LocalProtocolError):
        handle.secret(context)


def test_keymat_sid_takes_the_keying_octets_exactly_and_names_the_servers_spi() -> None:
    network, a, b = connected()
    client, server = exporters(network, a, b)
    (child,) = a.installed.values()
    at_client = client.open(B, "keymat-sid")
    at_server = server.open(spis(b), "keymat-sid", child_spi=child.spi_out, server_is_local=True)
    assert at_client.child_spi == at_server.child_spi == child.spi_out
    suite, _ = a.sa.need_keys()
    # A initiated: initiator to responder is what A sends.
    keymat = child.encr_key_out.octets + child.encr_key_in.octets
    assert at_client.secret(SID) == at_server.secret(SID) == suite.prf(keymat, SID)


def test_skd_sid_is_keyed_by_sk_d() -> None:
    network, a, b = connected()
    client, server = exporters(network, a, b)
    suite, keys = a.sa.need_keys()
    assert client.open(B, "skd-sid").secret(SID) == server.open(A, "skd-sid").secret(SID)
    assert client.open(B, "skd-sid").secret(SID) == suite.prf(keys.sk_d, SID)


def test_keymat_sid_without_that_child_sa_is_refused() -> None:
    network, a, b = connected()
    client, _ = exporters(network, a, b)
    (child,) = a.installed.values()
    with pytest.raises(NoSuchSa):
        client.open(B, "keymat-sid", child_spi=child.spi_in)  # ours, not the server's
    a.manager.delete_child(child, network.now)
    network.run(network.now + 5)
    with pytest.raises(NoSuchSa):
        client.open(B, "keymat-sid")


def test_handle_lives_on_after_the_sa_until_it_is_closed() -> None:
    network, a, b = connected()
    client, _ = exporters(network, a, b)
    handles = [client.open(B, derivation) for derivation in ("rfc7717", "keymat-sid", "skd-sid")]
    contexts = [b"IPPM", SID, SID]
    before = [handle.secret(context) for handle, context in zip(handles, contexts, strict=True)]
    a.manager.delete(a.sa, network.now)
    network.run()
    assert [handle.secret(context) for handle, context in zip(handles, contexts, strict=True)] == before
    for handle, context in zip(handles, contexts, strict=True):
        handle.close()
        with pytest.raises(LocalProtocolError):
            handle.secret(context)


def test_sa_that_is_gone_still_opens_for_sixty_seconds_by_its_spis_for_rfc7717_only() -> None:
    network, a, b = connected()
    _, server = exporters(network, a, b)
    of_sa = spis(b)
    wanted = server.open(of_sa).secret(b"IPPM")
    a.manager.delete(a.sa, network.now)
    network.run(network.now + 59)
    assert server.open(of_sa).secret(b"IPPM") == wanted
    for derivation in ("keymat-sid", "skd-sid"):
        with pytest.raises(NoSuchSa):
            server.open(of_sa, derivation)
    with pytest.raises(NoSuchSa):
        server.open(A)
    network.run(network.now + 2)
    with pytest.raises(NoSuchSa):
        server.open(of_sa)
    network.run()
    assert b.manager.next_timer() is None


def test_half_open_sa_has_no_key_for_anybody() -> None:
    network, a, b = pair(link=lambda sent: (0.01,) if sent.number < 2 else ())
    client, server = exporters(network, a, b)
    up(network, a, until=1.0)
    assert b.manager.half_open_count == 1
    half_open = (b.sa.spi_i, b.sa.spi_r)
    for exporter, sa in ((client, half_open), (server, half_open), (client, B), (server, A)):
        with pytest.raises(NoSuchSa):
            exporter.open(sa)
    network.run()
    with pytest.raises(NoSuchSa):
        server.open(half_open)


def test_newest_sa_of_a_peer_and_an_address_behind_it() -> None:
    network, a, b = pair(a={"send_initial_contact": False}, b={"send_initial_contact": False})
    client, _ = exporters(network, a, b)
    up(network, a, until=5.0)
    up(network, a, until=10.0)
    older, newer = a.manager.sas
    assert client.open(B).spi_i == newer.spi_i
    a.manager.delete(newer, network.now)
    network.run(network.now + 1)
    assert client.open(B).spi_i == older.spi_i


def test_no_repr_shows_a_key() -> None:
    network, a, b = connected()
    client, _ = exporters(network, a, b)
    handle = client.open(B)
    secret = handle.secret(b"IPPM").hex()
    assert secret not in repr(handle)
    for event in a.events:
        (child,) = a.installed.values()
        assert child.encr_key_in.octets.hex() not in repr(event)


def test_unknown_derivation_and_long_label_are_the_callers_mistake() -> None:
    network, a, b = connected()
    client, _ = exporters(network, a, b)
    with pytest.raises(LocalProtocolError, match="rfc7717"):
        client.open(B, "md5")
    with pytest.raises(LocalProtocolError):
        KeyExporter(a.manager, label=bytes(17))
