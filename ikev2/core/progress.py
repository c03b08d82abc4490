"""What is going on on an IKE SA and what is to come: for `list`, beside the snapshot of core/info.py.

A snapshot is made for each event, this only when somebody asks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ikev2.core import fragmentation
from ikev2.core.exchange import (
    Ask,
    AskForAddresses,
    CheckLiveness,
    CloseChildSa,
    CloseIkeSa,
    CloseReplaced,
    Establish,
    MakeChildSa,
    RekeyChildSa,
    RekeyIkeSa,
)
from ikev2.core.purposes import ChildRequest, IkeRequest

if TYPE_CHECKING:
    from ikev2.core.child_negotiation import ChildSa
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.window import RequestInFlight


@dataclass(frozen=True, slots=True)
class IkeSaProgress:
    """Times are seconds from now, None for never; a task is a few words of what is to be done, or waited for.

    `window`: how many requests of ours the peer takes at once;
    `fragmentation`: both ends do it; `fragment_octets`: the size of IP datagram above which we fragment.
    """

    rekey_in_s: int | None
    expires_in_s: int | None
    reauth_in_s: int | None
    auth_expires_in_s: int | None
    fragmentation: bool
    fragment_octets: int | None
    window: int
    next_request_id: int
    expected_request_id: int
    dropped_messages: int
    active_tasks: tuple[str, ...]
    queued_tasks: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ChildSaProgress:
    """Times are seconds from now, None for never. `replaces`: the inbound SPI of the pair that is still sent on."""

    rekey_in_s: int | None
    expires_in_s: int | None
    rekeying: bool
    closing: bool
    replaces: str | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def ike_sa_progress(sa: IkeSa, now: float) -> IkeSaProgress:
    """This IKE SA as it stands. RFC 7296 sections 2.3 and 2.8."""
    times = sa.times
    return IkeSaProgress(
        rekey_in_s=_until(times.soft_at, now),
        expires_in_s=_until(times.hard_at, now),
        reauth_in_s=_until(times.reauth_at, now),
        auth_expires_in_s=_until(times.auth_ends_at, now),
        fragmentation=sa.fragmentation.negotiated,
        fragment_octets=fragmentation.current_size(sa) if sa.fragmentation.negotiated else None,
        window=sa.requests.window,
        next_request_id=sa.requests.next_id,
        expected_request_id=sa.responses.expected_id,
        dropped_messages=sa.dropped,
        active_tasks=tuple(_active(request) for request in sa.requests.outstanding.values()),
        queued_tasks=(
            *(describe_task(task) for task in sa.tasks),
            *(f"{describe_task(task)}, again in {_until(at, now)} s" for at, task in times.retries),
        ),
    )


def child_sa_progress(child: ChildSa, now: float) -> ChildSaProgress:
    """This Child SA as it stands. RFC 7296 section 2.8."""
    return ChildSaProgress(
        rekey_in_s=_until(child.soft_at, now),
        expires_in_s=_until(child.hard_at, now),
        rekeying=child.rekeying,
        closing=child.closing,
        replaces=None if child.standby_for is None else f"{child.standby_for:08x}",
    )


def describe_task(task: object) -> str:
    """A local action, or what a request is for, in a few words."""
    match task:
        case Establish():
            return "establish the IKE SA"
        case CloseIkeSa(reason):
            return f"delete the IKE SA ({reason})"
        case CloseChildSa(spi_in, reason):
            return f"delete the Child SA {spi_in:08x} ({reason})"
        case CheckLiveness():
            return "ask whether the peer lives"
        case MakeChildSa(config):
            return f"make the Child SA {config.name}"
        case RekeyChildSa(spi_in):
            return f"rekey the Child SA {spi_in:08x}"
        case RekeyIkeSa():
            return "rekey the IKE SA"
        case CloseReplaced():
            return "delete the IKE SA that this one replaces"
        case ChildRequest() | IkeRequest():
            return describe_task(task.task)
        case AskForAddresses():
            return "ask for internal addresses"
        case Ask(exchange):
            return f"ask {exchange}"
        case _:
            return type(task).__name__


def _active(request: RequestInFlight) -> str:
    again = f", sent {request.sent} times" if request.sent > 1 else ""
    return f"{request.exchange} {request.message_id}: {describe_task(request.purpose)}{again}"


def _until(at: float | None, now: float) -> int | None:
    return None if at is None else max(0, round(at - now))
