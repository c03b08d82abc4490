"""Which IKE SA a measurement takes, and what it does without one, over an IKE side that the test plays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from binding_peers import FakeExporter, FakeHandle
from sim.network import child_config, connection

from binding.config import MeasurementConfig
from binding.measurement import (
    ChildTraffic,
    MeasureRequest,
    _check_path,
    existing_sa,
    measure,
    resolve,
    sa_for,
    with_passphrases,
)
from binding.policy import ChildView, SaChoice, SaView, connection_for, newest_with
from binding.provider import IkeKeyProvider
from binding.twping import Outcome
from ikev2.embedding import ChildCounters, ConnectionConfig, IkeError, NoSuchSa
from ikev2.wire.payloads import TrafficSelector
from ippm import ConfigurationError, NoSecret, ServerRefused, Thresholds, TwpingOptions

HERE, THERE = "192.0.2.1", "192.0.2.2"


def view(number: int, *, remote_id: str = "b.example", since: float = 0.0, children: bool = True) -> SaView:
    child = ChildView(0x100 + number, 0x200 + number, ChildCounters())
    spis = bytes([number]) * 8, bytes([number + 128]) * 8
    return SaView(*spis, remote_id, "suite", "psk", since, (child,) if children else ())


@dataclass
class Side:
    """An IkeSide: `there` are its SAs, `to_come` those that `up` brings."""

    there: list[SaView] = field(default_factory=list)
    to_come: list[SaView] = field(default_factory=list)
    connections: Sequence[ConnectionConfig] = (connection(HERE, THERE),)
    backend_name: str = "userspace"
    brought_up: list[str] = field(default_factory=list)

    @property
    def exporter(self) -> Any:
        return self

    def sas(self) -> list[SaView]:
        return list(self.there)

    async def up(self, name: str) -> None:
        self.brought_up.append(name)
        self.there += self.to_come

    def open(self, sa: object, derivation: str = "rfc7717", **_: object) -> FakeHandle:
        """As the exporter: for an address the newest."""
        if not self.there:
            raise NoSuchSa(f"no established IKE SA with the peer {sa}")
        newest = max(self.there, key=lambda one: one.since)
        return FakeHandle(derivation, spi_i=newest.spi_i, spi_r=newest.spi_r)


def request(
    path: str = "bypass", choice: SaChoice | None = None, mode: str = "encrypted", **words: Any
) -> MeasureRequest:
    config = MeasurementConfig(**words)
    return MeasureRequest(TwpingOptions(THERE, mode=mode), config, path, choice or SaChoice())


def look(side: Side, wish: MeasureRequest) -> SaView | None:
    return asyncio.run(sa_for(side, wish, THERE))


def test_the_exporter_chooses_by_address() -> None:
    side = Side([view(1, since=5.0), view(2, since=9.0), view(3, since=1.0)])
    assert existing_sa(side, SaChoice(), THERE) == side.there[1]
    assert existing_sa(Side(), SaChoice(), THERE) is None


def test_an_identity_means_the_newest_sa_with_it() -> None:
    side = Side([view(1, since=5.0), view(2, since=7.0), view(3, since=9.0, remote_id="c.example")])
    assert existing_sa(side, SaChoice(peer_identity="B.EXAMPLE"), THERE) == side.there[1]
    assert existing_sa(side, SaChoice(peer_identity="d.example"), THERE) is None
    assert newest_with("b.example", [view(1, since=7.0), view(2, since=5.0)]).spis == view(1).spis
    tie = [view(1, since=5.0), view(2, since=5.0)]
    assert newest_with("b.example", tie) == tie[1]
    select = SaChoice(peer_identity="b.example").selector(side.sas)
    assert select("198.51.100.1") == side.there[1].spis
    side.there.append(view(4, since=10.0))
    assert select("198.51.100.1") == side.there[3].spis  # A14: the newest when the message is written


def test_spis_mean_that_sa_and_nothing_is_brought_up_for_them() -> None:
    side = Side([view(1), view(2)], to_come=[view(9)])
    assert look(side, request(choice=SaChoice(spis=side.there[0].spis))) == side.there[0]
    with pytest.raises(NoSuchSa, match="0909"):
        look(side, request(choice=SaChoice(spis=view(9).spis)))
    assert side.brought_up == []


@pytest.mark.req("rfc7717-s5.1-m3")
def test_without_an_sa_the_client_initiates_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    side = Side(to_come=[view(1)])
    with caplog.at_level(logging.INFO, "ippm-ipsec"):
        assert look(side, request()) == side.to_come[0]
    assert side.brought_up == ["lab"]
    assert [record.getMessage() for record in caplog.records] == [
        f"no IKE SA with {THERE}: bringing up connection lab"
    ]


def test_a_peer_with_another_identity_is_not_taken_for_the_one_that_was_named() -> None:
    side = Side(to_come=[view(1, remote_id="mallory.example")])
    with pytest.raises(NoSuchSa, match=r"b\.example"):
        look(side, request(choice=SaChoice(peer_identity="b.example")))


def test_no_sa_fail_brings_nothing_up() -> None:
    side = Side(to_come=[view(1)])
    with pytest.raises(NoSuchSa, match='no_sa = "fail"'):
        look(side, request(no_sa="fail"))
    assert side.brought_up == []


@pytest.mark.req("rfc7717-s5.1-m4")
def test_fallback_measures_in_a_mode_of_the_older_documents_and_logs_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[TwpingOptions, object]] = []

    class Measured(Exception):
        """What the test wanted to know is known."""

    async def ping(options: TwpingOptions, provider: object, **_: object) -> object:
        asked.append((options, provider))
        raise Measured

    monkeypatch.setattr("binding.measurement.run_twping", ping)
    side = Side()
    with caplog.at_level(logging.ERROR, "ippm-ipsec"), pytest.raises(Measured):
        asyncio.run(measure(side, request(no_sa="fallback", require_ikev2=False)))
    ((options, provider),) = asked
    assert not options.security.keyed
    assert not isinstance(provider, IkeKeyProvider)
    assert side.brought_up == []
    (record,) = caplog.records
    assert (record.levelname, f"no IKE SA with {THERE}" in record.getMessage()) == ("ERROR", True)


def test_no_sa_fallback_brings_nothing_up_and_never_claims_a_tunnel() -> None:
    side = Side(to_come=[view(1)])
    wish = request(no_sa="fallback", require_ikev2=False)
    assert look(side, wish) is None
    with pytest.raises(NoSuchSa, match="fallback"):
        look(side, replace(wish, path="tunnel"))
    assert side.brought_up == []


def test_open_mode_outside_the_tunnel_needs_no_sa() -> None:
    side = Side(to_come=[view(1)])
    assert look(side, request(mode="open")) is None
    assert side.brought_up == []
    assert look(side, request(mode="open", path="tunnel")) == side.to_come[0]


@pytest.mark.parametrize("backend", ["memory", "dry-run"])
def test_no_path_is_called_a_tunnel_where_there_is_none(backend: str) -> None:
    """Nothing is sent: the refusal comes before the Control connection."""
    with pytest.raises(IkeError, match=f"the {backend} backend carries no traffic"):
        asyncio.run(measure(Side([view(1)], backend_name=backend), request("tunnel", mode="open")))
    with pytest.raises(IkeError, match="no Child SA"):
        asyncio.run(measure(Side([view(1, children=False)]), request("tunnel", mode="open")))


@pytest.mark.parametrize(
    ("path", "packets", "lines"), [("bypass", 0, 0), ("bypass", 10, 1), ("tunnel", 9, 1), ("tunnel", 17, 0)]
)
def test_counters_that_do_not_fit_the_path_are_a_warning(
    caplog: pytest.LogCaptureFixture, path: str, packets: int, lines: int
) -> None:
    before = ChildView(1, 2, ChildCounters(packets_out=100))
    after = ChildView(1, 2, ChildCounters(packets_out=100 + packets))
    _check_path(path, ChildTraffic("userspace", before, after), 10)
    assert len(caplog.records) == lines


def test_the_connection_is_that_whose_peer_the_server_is_or_else_one_that_leads_there() -> None:
    behind = TrafficSelector.from_network("198.51.100.0/24")  # type: ignore[arg-type]
    gateway = replace(
        connection(HERE, "203.0.113.1"), name="gateway", children=(child_config(remote_ts=(behind,)),)
    )
    direct = replace(connection(HERE, "2001:DB8:0:0::2"), name="direct")
    named = replace(connection(HERE, "b.example"), name="named")
    every = replace(connection(HERE, "%any"), name="any")
    connections = (every, gateway, direct, named)
    assert connection_for(connections, "2001:db8::2", "2001:db8::2") == "direct"
    assert connection_for(connections, "198.51.100.77", "198.51.100.77") == "gateway"
    assert connection_for(connections, "b.example", "192.0.2.9") == "named"
    with pytest.raises(IkeError) as caught:
        connection_for(connections, "192.0.2.9", "192.0.2.9")
    assert "192.0.2.9" in str(caught.value)


def test_a_name_is_resolved_before_an_sa_is_looked_for() -> None:
    assert asyncio.run(resolve(TwpingOptions("127.0.0.9"))) == "127.0.0.9"
    assert asyncio.run(resolve(TwpingOptions("localhost", family=2))) == "127.0.0.1"
    with pytest.raises(IkeError, match=r"nowhere\.invalid"):
        asyncio.run(resolve(TwpingOptions("nowhere.invalid")))


class _Statistics:
    median = 3_000_000


class _Result:
    sent, lost = 200, 3
    round_trip: _Statistics | None = _Statistics()


class _NothingCame(_Result):
    round_trip = None


class _NothingSent(_NothingCame):
    sent = lost = 0


@pytest.mark.parametrize(
    ("thresholds", "result", "words"),
    [
        (Thresholds(), _Result, None),
        (Thresholds(loss_percent=1.5), _Result, None),
        (Thresholds(loss_percent=1.4), _Result, "3 of 200 packets lost"),
        (Thresholds(delay_ms=3.0), _Result, None),
        (Thresholds(delay_ms=2.9), _Result, "median round-trip time 3.000 ms"),
        (Thresholds(delay_ms=2.9), _NothingCame, "no packet was answered"),
        (Thresholds(loss_percent=100), _NothingSent, "no packet was sent"),
    ],
)
def test_thresholds(thresholds: Thresholds, result: Any, words: str | None) -> None:
    reason = thresholds.exceeded(result())
    assert (reason is None) == (words is None)
    assert words is None or words in str(reason)


@pytest.mark.parametrize(("octets", "why"), [("c3a9", "is not ASCII"), ("610a", "has a newline in it")])
def test_a_forbidden_passphrase_is_told_with_its_file(tmp_path: Path, octets: str, why: str) -> None:
    """RFC 4656 section 3.1, RFC 5357 section 3.1."""
    keys = tmp_path / "keys.pfs"
    keys.write_text(f"alice {octets}\n")
    keys.chmod(0o600)
    config = MeasurementConfig(key_file=str(keys), require_ikev2=False)
    with pytest.raises(ConfigurationError) as caught:
        with_passphrases(IkeKeyProvider(FakeExporter()), config)
    assert str(caught.value) == f"{keys}: the passphrase of KeyID 'alice' {why}"


@pytest.mark.parametrize(
    ("error", "accept"),
    [
        (NoSecret(6, "no established IKE SA"), None),
        (ServerRefused(6, "no IKEv2 SA"), 6),
        (IkeError("no answer"), None),
    ],
)
def test_accept_in_json_is_what_the_server_answered(error: Any, accept: int | None) -> None:
    assert Outcome(error=error).to_dict()["accept"] == accept
