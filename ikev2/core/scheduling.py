"""When local actions begin: in the order in which they were asked for, as many at once as the peer's window allows.

The rules, before the code:

- The first action that has to wait holds up all those behind it.
- What replaces or closes the IKE SA waits until every request of ours is answered, and is alone on its way: Child SAs
  must not be made, or go, while they are handed over, and the Delete is the last request (rfc7296-s2.8-04).
- No exchange begins on an IKE SA that is being replaced, but its deletion (rfc7296-s1.3.2-02).
- Nothing begins while the driver installs a pair that takes the place of another: then the old one is deleted first.
- Of the Child SAs that come one in the place of the other there is one request at a time. So both ends see collisions
  over them in the order for which RFC 7296 sections 2.8.1 and 2.25.1 have their rules, whatever the window.

RFC 7296 sections 2.3, 2.8 and 2.25.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.exchange import (
    Ask,
    CloseChildSa,
    CloseIkeSa,
    CloseReplaced,
    MakeChildSa,
    RekeyChildSa,
    RekeyIkeSa,
    Task,
)
from ikev2.core.exchanges import create_child_sa, informational, rekey_ike_sa
from ikev2.core.purposes import ChildRequest
from ikev2.core.state import State
from ikev2.core.window import MESSAGE_ID_LIMIT

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def begin_what_may(sa: IkeSa, now: float) -> None:
    """Begin the local actions whose turn it is."""
    if sa.replacing:
        return  # until the driver has installed what is new: first of all the old pair is deleted
    _heed_limit(sa)
    while sa.tasks and _may_request(sa) and _has_turn(sa, sa.tasks[0]):
        _begin(sa, sa.tasks.popleft(), now)
        _heed_limit(sa)


def _heed_limit(sa: IkeSa) -> None:
    """The ids that are left are for requests that are on their way already, and for the Delete."""
    if sa.requests.next_id >= MESSAGE_ID_LIMIT and sa.state is State.ESTABLISHED and not sa.is_closing():
        sa.queue_first(CloseIkeSa("the message ids are used up"))  # rfc7296-s2.2-02


def _may_request(sa: IkeSa) -> bool:
    if sa.state is State.AUTH_SENT:
        return sa.failed
    # rfc7296-s1.3.2-02: not in state REKEYING; of a REKEYED one all but its deletion was handed on.
    # One that may have to go again, as both ends have rekeyed at once, waits until that is decided.
    return sa.state in (State.ESTABLISHED, State.REKEYED) and sa.predecessor is None  # rfc7296-s1.3.2-02


def _has_turn(sa: IkeSa, task: Task) -> bool:
    """True when nothing that is on its way stands in the way of this."""
    if isinstance(task, CloseIkeSa | RekeyIkeSa | CloseReplaced):
        return not sa.requests.outstanding
    if not sa.requests.has_room:
        return False
    line = _line(sa, task)
    return line is None or all(_line(sa, request.purpose) != line for request in sa.requests.outstanding.values())


def _line(sa: IkeSa, purpose: object) -> int | None:
    """What ties Child SAs together that replace each other: their reqid; None when this is about no such."""
    match purpose:
        case ChildRequest():
            return purpose.reqid
        case RekeyChildSa() | CloseChildSa():
            child = sa.children.get(purpose.spi_in)
            return None if child is None else child.params.reqid
        case _:
            return None


def _begin(sa: IkeSa, task: Task, now: float) -> None:
    match task:
        case MakeChildSa() | RekeyChildSa():
            create_child_sa.begin(sa, task, now)
        case RekeyIkeSa():
            rekey_ike_sa.begin(sa, task, now)
        case Ask():
            sa.send_request(task.exchange, task.payloads, task, now)
        case CloseReplaced():
            sa.observer.replaced(sa, now)
        case CloseIkeSa():
            informational.begin(sa, task, now)
            sa.go(State.DELETING, "we close the IKE SA")
        case _:
            informational.begin(sa, task, now)
