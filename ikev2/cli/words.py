"""The kinds of values that the sections of the configuration have: each checks a text, and says what would be right."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from ikev2.cli.selectors import parse_duration, parse_selector
from ikev2.core import cp
from ikev2.core.child_sa import PAD_TO_MTU
from ikev2.core.config import Limits
from ikev2.core.identity import Identity, parse_peer
from ikev2.core.pools import AddressRange
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.errors import ConfigurationError, IkeError

_LONGEST_PACKET = 65535
_WIDEST_WINDOW = 4096
_HIGHEST_DSCP = 63


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    """A pydantic validator of one of our parsers, which keeps the text."""

    def check(text: str) -> str:
        try:
            parse(text)
        except IkeError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(check)


def strings(value: object) -> object:
    """swanctl's lists are texts with commas; TOML's own are welcome, too."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _duration(value: object) -> float:
    try:
        return parse_duration(value)  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _padding(value: object) -> int:
    """swanctl's `tfc_padding`."""
    if value == "mtu":
        return PAD_TO_MTU
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LONGEST_PACKET:
        raise ValueError(f'{value!r} is not a length of packets, 0 to {_LONGEST_PACKET} octets, or "mtu"')
    return value


def _dscp(value: object) -> int | None:
    """A DS field is of six bits. RFC 2474 section 3."""
    if value == "copy":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_DSCP:
        raise ValueError(f'{value!r} is not a code point, 0 to {_HIGHEST_DSCP}, or "copy"')
    return value


def _lengths(value: object) -> tuple[int, int]:
    """One length of packets, or a range of them in text."""
    first, _, last = value.partition("-") if isinstance(value, str) else (str(value), "", "")
    last = last or first
    if isinstance(value, bool) or not (first + last).isdecimal() or not int(first) <= int(last) <= _LONGEST_PACKET:
        raise ValueError(
            f"{value!r} is not a length of packets, 0 to {_LONGEST_PACKET} octets, or a range: '64-1400'"
        )
    return int(first), int(last)


def _replay_window(value: object) -> int:
    """Packets: RFC 4303 section 3.4.3 has 32 as the least, or no window."""
    if not isinstance(value, int) or isinstance(value, bool) or (value and not 32 <= value <= _WIDEST_WINDOW):
        raise ValueError(
            f"{value!r} is not a number of packets, 32 to {_WIDEST_WINDOW}, or 0 for no replay protection"
        )
    return value


def _local_address(text: str) -> None:
    if text != "%any" and not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an IP address of this host or %any")


def _remote_address(text: str) -> None:
    if text == "%any" or _parses(ipaddress.ip_network, text):
        return
    if not text or "/" in text or not text.isprintable() or any(character.isspace() for character in text):
        raise ConfigurationError(f"{text!r} is not an address, a network, a host's name or %any")


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _virtual_address(text: str) -> None:
    if not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an address to ask for: 0.0.0.0 and :: stand for any")
    if not cp.is_usable(ipaddress.ip_address(text)) and not ipaddress.ip_address(text).is_unspecified:
        raise ConfigurationError(f"{text!r} is an address that no host can have")


def _address(text: str) -> None:
    if not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an IP address")


def _network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        hint = ""
        if "host bits" in str(error):
            hint = f"; the network is {ipaddress.ip_network(text, strict=False)}"
        raise ConfigurationError(f"{text!r} is not a network such as 10.2.0.0/24{hint}") from None


def _netmask(text: str) -> None:
    if not _parses(lambda mask: ipaddress.IPv4Network(f"0.0.0.0/{mask}"), text) or "." not in text:
        raise ConfigurationError(f"{text!r} is not an IPv4 netmask such as 255.255.255.0")


def _socket_path(text: str) -> None:
    if not text or "\0" in text:
        raise ConfigurationError(f"{text!r} is not the name of a socket")


def own_identity(text: str) -> Identity | None:
    """Our identity; None, for %any, is our address."""
    return None if text == "%any" else Identity.parse(text)


ReplayWindow = Annotated[int, BeforeValidator(_replay_window)]
Dscp = Annotated[int | None, BeforeValidator(_dscp)]
Lengths = Annotated[tuple[int, int], BeforeValidator(_lengths)]
TfcPadding = Annotated[int, BeforeValidator(_padding)]
Seconds = Annotated[float, BeforeValidator(_duration)]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(strict=True)]
LocalAddresses = Annotated[
    list[Annotated[Text, _checked(_local_address)]], BeforeValidator(strings), Field(min_length=1)
]
RemoteAddresses = Annotated[
    list[Annotated[Text, _checked(_remote_address)]], BeforeValidator(strings), Field(min_length=1)
]
IkeProposals = Annotated[
    list[Annotated[Text, _checked(parse_ike_proposal)]], BeforeValidator(strings), Field(min_length=1)
]
EspProposals = Annotated[
    list[Annotated[Text, _checked(parse_esp_proposal)]], BeforeValidator(strings), Field(min_length=1)
]
Selectors = Annotated[
    list[Annotated[Text, _checked(parse_selector)]], BeforeValidator(strings), Field(min_length=1)
]
OwnIdentityText = Annotated[Text, _checked(own_identity)]
IdentityText = Annotated[Text, _checked(parse_peer)]
VirtualAddresses = Annotated[
    list[Annotated[Text, _checked(_virtual_address)]],
    BeforeValidator(strings),
    Field(max_length=Limits().internal_addresses),
]
PoolRanges = Annotated[
    list[Annotated[Text, _checked(AddressRange.parse)]], BeforeValidator(strings), Field(min_length=1)
]
AddressTexts = Annotated[list[Annotated[Text, _checked(_address)]], BeforeValidator(strings)]
NetworkTexts = Annotated[list[Annotated[Text, _checked(_network)]], BeforeValidator(strings)]
SocketPath = Annotated[Text, _checked(_socket_path)]
Netmask = Annotated[Text, _checked(_netmask)]
