"""The life of an IKE SA as a table.

A row says: in this state, when this exchange comes to us in this role, here is the story, it may be one of these
variants (wire/rules.py says which payloads each has), this handler sees to it, and these are the states it can lead
to (the first is what happens when all goes well). Role RESPONDER means that a request comes in, INITIATOR that the
response to our request does. What has no row is not for this state: it is dropped, or, when it came under the
protection of an established IKE SA, refused.

    IDLE ------ initiate ----> INIT_SENT -- IKE_SA_INIT --> AUTH_SENT -- IKE_AUTH --> ESTABLISHED
    IDLE ---- IKE_SA_INIT ---> HALF_OPEN ------------- IKE_AUTH -----------------> ESTABLISHED
    ESTABLISHED -- delete --> DELETING -- INFORMATIONAL --> CLOSED

RFC 7296 sections 1.2 to 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ikev2.core.exchange import Inbound
from ikev2.core.exchanges import create_child_sa, ike_auth, ike_sa_init, informational
from ikev2.core.types import Role
from ikev2.iana import ExchangeType
from ikev2.wire.payloads import Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

Handler = Callable[["IkeSa", Inbound], "tuple[Payload, ...]"]
"""Gives the payloads of the response (empty ones for a response that came in)."""


class State(StrEnum):
    """The states of an IKE SA. RFC 7296 names none: these follow its exchanges."""

    IDLE = "IDLE"
    INIT_SENT = "INIT_SENT"
    HALF_OPEN = "HALF_OPEN"
    AUTH_SENT = "AUTH_SENT"
    ESTABLISHED = "ESTABLISHED"
    DELETING = "DELETING"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row. `variants` are those of wire/rules.py that have a meaning here."""

    story: str
    variants: tuple[str, ...]
    handler: Handler
    leads_to: tuple[State, ...]
    protected: bool = True


Key = tuple[State, ExchangeType, Role]

TRANSITIONS: dict[Key, Transition] = {
    (State.IDLE, ExchangeType.IKE_SA_INIT, Role.RESPONDER): Transition(
        "an initiator calls: choose a proposal, send our KE and nonce",
        ("normal",),
        ike_sa_init.answer,
        (State.HALF_OPEN, State.IDLE),
        protected=False,
    ),
    (State.INIT_SENT, ExchangeType.IKE_SA_INIT, Role.INITIATOR): Transition(
        "the responder has chosen: derive keys, prove who we are, ask for a Child SA",
        ("normal", "cookie", "invalid-ke", "error"),
        ike_sa_init.conclude,
        (State.AUTH_SENT, State.INIT_SENT),
        protected=False,
    ),
    (State.HALF_OPEN, ExchangeType.IKE_AUTH, Role.RESPONDER): Transition(
        "the initiator proves who it is: verify, prove who we are, make the Child SA",
        ("normal", "childless", "eap-first"),
        ike_auth.answer,
        (State.ESTABLISHED, State.CLOSED),
    ),
    (State.AUTH_SENT, ExchangeType.IKE_AUTH, Role.INITIATOR): Transition(
        "the responder proves who it is: verify, take the Child SA",
        ("normal", "childless", "child-error", "error"),
        ike_auth.conclude,
        (State.ESTABLISHED, State.DELETING, State.CLOSED),
    ),
    (State.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): Transition(
        "the peer asks for another SA: refuse",
        ("new-child", "rekey-child", "rekey-ike"),
        create_child_sa.answer,
        (State.ESTABLISHED,),
    ),
    (State.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.RESPONDER): Transition(
        "the peer deletes, notifies, or wants to know that we live",
        ("normal",),
        informational.answer,
        (State.ESTABLISHED, State.CLOSED),
    ),
    (State.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.INITIATOR): Transition(
        "the peer has taken note of what we deleted, or lives",
        ("normal",),
        informational.conclude,
        (State.ESTABLISHED, State.DELETING, State.CLOSED),
    ),
    (State.DELETING, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): Transition(
        "the peer asks for an SA while we close: not now",
        ("new-child", "rekey-child", "rekey-ike"),
        create_child_sa.answer_closing,
        (State.DELETING,),
    ),
    (State.DELETING, ExchangeType.INFORMATIONAL, Role.RESPONDER): Transition(
        "the peer asks something, or closes too, while we close",
        ("normal",),
        informational.answer,
        (State.DELETING, State.CLOSED),
    ),
    (State.DELETING, ExchangeType.INFORMATIONAL, Role.INITIATOR): Transition(
        "the peer has closed the IKE SA as well",
        ("normal",),
        informational.conclude,
        (State.CLOSED,),
    ),
}
