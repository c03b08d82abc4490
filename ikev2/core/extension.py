"""What an extension of the protocol adds to the initial exchanges, and where it listens.

    offer    payloads that go with each IKE_SA_INIT and IKE_AUTH message of ours: mostly a notify that says "supported"
    hear     told of every message that has passed its payload rules, before its handler

An extension keeps what it knows of an IKE SA in `sa.extensions`, under its name; a new IKE SA that comes of rekeying
inherits it. New exchanges are rows of core/transitions.py and wire/rules.py. docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ikev2.iana import ExchangeType
from ikev2.registration import Registration, register_row
from ikev2.wire.payloads import Payload

if TYPE_CHECKING:
    from ikev2.core.exchange import Inbound
    from ikev2.core.ike_sa import IkeSa


def _nothing(sa: IkeSa, exchange: ExchangeType, is_response: bool) -> tuple[Payload, ...]:
    return ()


def _deaf(sa: IkeSa, inbound: Inbound) -> None:
    return


@dataclass(frozen=True, slots=True)
class Extension:
    """`offer(sa, exchange, is_response)` gives payloads; `hear(sa, inbound)` may raise ProtocolError, as a handler."""

    name: str
    offer: Callable[[IkeSa, ExchangeType, bool], tuple[Payload, ...]] = _nothing
    hear: Callable[[IkeSa, Inbound], None] = _deaf


_EXTENSIONS: dict[str, Extension] = {}


def register(extension: Extension) -> Registration:
    """Let all endpoints of this process speak an extension. Clash when there is one of its name."""
    return register_row(_EXTENSIONS, extension.name, extension, f"the extension {extension.name}")


def offers(sa: IkeSa, exchange: ExchangeType, *, is_response: bool) -> tuple[Payload, ...]:
    """What all extensions add to a message of the initial exchanges."""
    return tuple(one for extension in _EXTENSIONS.values() for one in extension.offer(sa, exchange, is_response))


def hear(sa: IkeSa, inbound: Inbound) -> None:
    """Tell all extensions of a message."""
    for extension in _EXTENSIONS.values():
        extension.hear(sa, inbound)
