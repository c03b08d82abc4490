"""The life of an IKE SA as a table.

A row says: in this state, when this exchange comes to us in this role, here is the story, it may be one of these
variants (wire/rules.py says which payloads each has), this handler sees to it, and these are the states it can lead
to (the first is what happens when all goes well). Role RESPONDER means that a request comes in, INITIATOR that the
response to our request does. What has no row is not for this state: it is dropped, or, when it came under the
protection of an established IKE SA, refused.

    IDLE ------ initiate ----> INIT_SENT -- IKE_SA_INIT --> AUTH_SENT -- IKE_AUTH --> ESTABLISHED
    IDLE ---- IKE_SA_INIT ---> HALF_OPEN ------------- IKE_AUTH -----------------> ESTABLISHED
    ESTABLISHED -- rekey --> REKEYING -- CREATE_CHILD_SA --> REKEYED (and another IKE SA is ESTABLISHED)
    ESTABLISHED ----- CREATE_CHILD_SA for a new IKE SA ----> REKEYED (likewise)
    ESTABLISHED or REKEYED -- delete --> DELETING -- INFORMATIONAL --> CLOSED

RFC 7296 sections 1.2 to 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ikev2.core.exchange import Inbound
from ikev2.core.exchanges import create_child_sa, ike_auth, ike_sa_init, informational, rekey_ike_sa
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.iana import ExchangeType
from ikev2.registration import Registration, register_row
from ikev2.wire.payloads import Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

__all__ = ["LOCAL", "TRANSITIONS", "Handler", "Key", "State", "Transition", "is_own", "register"]

Handler = Callable[["IkeSa", Inbound], "tuple[Payload, ...]"]
"""Gives the payloads of the response (empty ones for a response that came in)."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One row. `variants` are those of wire/rules.py that have a meaning here."""

    story: str
    variants: tuple[str, ...]
    handler: Handler
    leads_to: tuple[State, ...]
    protected: bool = True


Key = tuple[State, ExchangeType, Role]

_REQUESTS = ("new-child", "rekey-child", "rekey-ike")
_RESPONSES = (*_REQUESTS, "invalid-ke", "error")

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
    (State.HALF_OPEN, ExchangeType.IKE_AUTH, Role.RESPONDER): Transition(  # rfc7296-s4-04
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
        "the peer asks for another SA: make it; a new IKE SA takes the place of this one",
        _REQUESTS,
        create_child_sa.answer,
        (State.ESTABLISHED, State.REKEYED, State.CLOSED),
    ),
    (State.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR): Transition(
        "the peer has made a Child SA, or says why not",
        _RESPONSES,
        create_child_sa.conclude,
        (State.ESTABLISHED, State.DELETING, State.CLOSED),
    ),
    (State.REKEYING, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): Transition(
        "the peer wants a new IKE SA, too: make it, and see later which one stays",
        _REQUESTS,
        rekey_ike_sa.answer_rekeying,
        (State.REKEYING, State.CLOSED),
    ),
    (State.REKEYING, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR): Transition(
        "the peer has made a new IKE SA, or says why not",
        _RESPONSES,
        rekey_ike_sa.conclude,
        (State.REKEYED, State.ESTABLISHED, State.DELETING, State.CLOSED),
    ),
    (State.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): Transition(
        "the peer asks for an SA on an IKE SA that has been replaced: not here",
        _REQUESTS,
        create_child_sa.answer_closing,
        (State.REKEYED,),
    ),
    (State.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR): Transition(
        "the peer has made a new IKE SA, which is not needed any more",
        _RESPONSES,
        rekey_ike_sa.conclude_late,
        (State.REKEYED, State.DELETING, State.CLOSED),
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
    (State.REKEYING, ExchangeType.INFORMATIONAL, Role.RESPONDER): Transition(
        "the peer deletes, notifies, or wants to know that we live, while we rekey the IKE SA",
        ("normal",),
        informational.answer,
        (State.REKEYING, State.REKEYED, State.CLOSED),
    ),
    (State.REKEYED, ExchangeType.INFORMATIONAL, Role.RESPONDER): Transition(
        "the peer deletes the IKE SA that has been replaced",
        ("normal",),
        informational.answer,
        (State.REKEYED, State.CLOSED),
    ),
    (State.REKEYED, ExchangeType.INFORMATIONAL, Role.INITIATOR): Transition(
        "the peer has taken note of what we asked before the IKE SA was replaced",
        ("normal",),
        informational.conclude,
        (State.REKEYED, State.DELETING, State.CLOSED),
    ),
    (State.DELETING, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER): Transition(
        "the peer asks for an SA while we close: not now",
        _REQUESTS,
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

_OWN = frozenset(TRANSITIONS)


def register(state: State, exchange: ExchangeType, role: Role, row: Transition) -> Registration:
    """Handle an exchange in a state in which it has no row. Clash when there is one.

    Role RESPONDER is for requests that come in, INITIATOR for the responses to ours (`IkeSa.ask` sends one).
    """
    return register_row(TRANSITIONS, (state, exchange, role), row, f"a row for {exchange} in {state} as {role}")


def is_own(key: Key) -> bool:
    """True for a row of this module, False for one that was registered."""
    return key in _OWN


LOCAL: dict[tuple[State, State], str] = {
    (State.IDLE, State.INIT_SENT): "initiate",
    (State.IDLE, State.ESTABLISHED): "come in the place of another by rekeying",
    (State.ESTABLISHED, State.REKEYING): "rekey",
    (State.ESTABLISHED, State.DELETING): "delete",
    (State.REKEYED, State.DELETING): "delete",
    (State.AUTH_SENT, State.DELETING): "refuse a peer that is not who it should be",
}
"""Changes of state that no message of the peer brings about; and every state leads to CLOSED when its time is over."""
