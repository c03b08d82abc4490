"""The conversation with the kernel: one netlink socket, one request at a time, errors as sentences.

The kernel answers a request within the send call, so there is nothing to wait for; the time limit is only a guard.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Self

from ikev2.errors import BackendError
from ikev2.ipsec.xfrm.aevents import NoticeRequest
from ikev2.ipsec.xfrm.messages import (
    NetlinkMessage,
    Policy,
    Request,
    Sa,
    SaFlush,
    SpiRequest,
    encode_message,
    parse_attributes,
    parse_messages,
)
from ikev2.ipsec.xfrm.migration import MigrateRequest
from ikev2.ipsec.xfrm.structs import PolicyId, SaId
from ikev2.ipsec.xfrm.uapi import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_CAP_ACK,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NETLINK_XFRM,
    SOL_NETLINK,
    NlmF,
    NlMsg,
    PolicyDirection,
    XfrmMsg,
)

_RECEIVE_OCTETS = 1 << 18
_TIMEOUT_S = 10.0
_EXT_ACK_MESSAGE = 1
_BATCH_OCTETS = 1 << 16
_BATCH_MESSAGES = 128
"""So many refusals fit into a socket's buffer for certain: the kernel counts more than a kilobyte for the smallest."""

Change = tuple[XfrmMsg, Request]
"""A request that has no answer but that it was done, or was not."""

_WHAT = {
    XfrmMsg.NEWSA: "install the SA",
    XfrmMsg.UPDSA: "complete the SA",
    XfrmMsg.DELSA: "delete the SA",
    XfrmMsg.GETSA: "read the SA",
    XfrmMsg.ALLOCSPI: "reserve an SPI",
    XfrmMsg.FLUSHSA: "flush the SAs",
    XfrmMsg.NEWPOLICY: "install the policy",
    XfrmMsg.UPDPOLICY: "change the policy",
    XfrmMsg.DELPOLICY: "delete the policy",
    XfrmMsg.GETPOLICY: "read the policy",
    XfrmMsg.FLUSHPOLICY: "flush the policies",
    XfrmMsg.NEWAE: "be told of the SA's packets",
    XfrmMsg.MIGRATE: "move the policy and its SAs",
}


class XfrmError(BackendError):
    """The kernel refused a request. `errno` is its number, `detail` its own words (empty on old kernels)."""

    def __init__(self, sentence: str, number: int, detail: str = "") -> None:
        super().__init__(sentence)
        self.errno = number
        self.detail = detail


def sentence(operation: XfrmMsg, number: int, detail: str = "") -> str:
    """What a refusal means, in one sentence for a person."""
    what = _WHAT.get(operation, operation.name)
    own_words = f' (the kernel says "{detail}")' if detail else ""
    concerns_sa = operation in {XfrmMsg.NEWSA, XfrmMsg.UPDSA}
    if number == errno.EPERM:
        why = "no permission: CAP_NET_ADMIN over this network namespace is needed"
    elif concerns_sa and (number == errno.EPROTONOSUPPORT or "type not found" in detail):
        why = "this kernel has no ESP for this address family (esp4 or esp6: CONFIG_INET_ESP, CONFIG_INET6_ESP)"
    elif concerns_sa and number in {errno.ENOSYS, errno.ENOENT}:
        why = "this kernel does not have ESP or does not have one of the SA's algorithms"
    elif number == errno.EOPNOTSUPP:
        why = "the network device, or its driver, does not do that for ESP (hw_offload)"
    elif operation is XfrmMsg.MIGRATE and number == errno.ENOPROTOOPT:
        why = "this kernel cannot move SAs (CONFIG_XFRM_MIGRATE)"
    elif concerns_sa and number == errno.EEXIST:
        why = "an SA with this SPI and destination is already there"
    elif operation is XfrmMsg.NEWPOLICY and number == errno.EEXIST:
        why = "a policy of somebody else with the same selector is already there"
    elif number == errno.ESRCH:
        why = "there is no such SA"
    elif number == errno.ENOENT:
        about_spi = operation is XfrmMsg.ALLOCSPI
        why = "no SPI of the range is free" if about_spi else "there is no such policy"
    elif number == errno.EINVAL:
        why = "the kernel does not accept its values"
    else:
        why = os.strerror(number)
    return f"cannot {what}: {why}{own_words}"


class XfrmSocket:
    """A NETLINK_XFRM socket in the network namespace of the calling thread.

    Raises `XfrmError`, a `BackendError`. Not for use from two threads at once.
    """

    def __init__(self, groups: int = 0) -> None:
        """`groups`: multicast groups to listen to; such a socket is for `receive_notices`, and does not block."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
        except OSError as error:
            number = error.errno or 0
            why = (
                "this kernel has no XFRM over netlink (CONFIG_XFRM_USER)"
                if number in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}
                else os.strerror(number)
            )
            raise XfrmError(f"cannot open an XFRM netlink socket: {why}", number) from error
        self._sequence = 0
        self._socket.bind((0, groups))
        self._port_id: int = self._socket.getsockname()[0]
        if groups:
            self._socket.setblocking(False)
            return
        self._socket.settimeout(_TIMEOUT_S)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            # Without CAP_ACK a refusal echoes the request, keys and all; both are absent only before Linux 4.12.
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                continue

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- SAs

    def allocate_spi(self, request: SpiRequest) -> Sa:
        """ALLOCSPI: the larval SA that the kernel made, with its SPI."""
        return Sa.parse(self._one(XfrmMsg.ALLOCSPI, request))

    def new_sa(self, sa: Sa) -> None:
        """NEWSA: EEXIST when the SPI is taken, also by a larval SA."""
        self._request(XfrmMsg.NEWSA, sa.encode(), NlmF.ACK)

    def update_sa(self, sa: Sa) -> None:
        """UPDSA: completes a larval SA or changes one; ESRCH when there is none."""
        self._request(XfrmMsg.UPDSA, sa.encode(), NlmF.ACK)

    def delete_sa(self, sa_id: SaId) -> None:
        self._request(XfrmMsg.DELSA, sa_id.encode(), NlmF.ACK)

    def get_sa(self, sa_id: SaId) -> Sa:
        return Sa.parse(self._one(XfrmMsg.GETSA, sa_id))

    def dump_sas(self) -> list[Sa]:
        """Every SA of this network namespace."""
        replies = self._request(XfrmMsg.GETSA, bytes(SaId.SIZE), NlmF.DUMP)
        return [Sa.parse(reply.body) for reply in replies]

    def flush_sas(self, protocol: int = 255) -> None:
        """Every SA of this network namespace goes, also what is not ours: for laboratories."""
        try:
            self._request(XfrmMsg.FLUSHSA, SaFlush(protocol).encode(), NlmF.ACK)
        except XfrmError as error:
            if error.errno != errno.ESRCH:  # nothing was there
                raise

    def set_notice(self, request: NoticeRequest) -> None:
        """NEWAE: after how many packets of an SA the kernel tells of it."""
        self._request(XfrmMsg.NEWAE, request.encode(), NlmF.ACK | NlmF.REPLACE)

    def migrate(self, request: MigrateRequest) -> None:
        """MIGRATE: a policy and the SAs that it leads to; ENOPROTOOPT without CONFIG_XFRM_MIGRATE."""
        self._request(XfrmMsg.MIGRATE, request.encode(), NlmF.ACK)

    # -- policies

    def new_policy(self, policy: Policy) -> None:
        """NEWPOLICY: EEXIST when the same selector is in the same list."""
        self._request(XfrmMsg.NEWPOLICY, policy.encode(), NlmF.ACK)

    def update_policy(self, policy: Policy) -> None:
        """UPDPOLICY: replaces the policy of the same selector and list, or makes it."""
        self._request(XfrmMsg.UPDPOLICY, policy.encode(), NlmF.ACK)

    def delete_policy(self, policy_id: PolicyId) -> None:
        self._request(XfrmMsg.DELPOLICY, policy_id.encode(), NlmF.ACK)

    def get_policy(self, policy_id: PolicyId) -> Policy:
        return Policy.parse(self._one(XfrmMsg.GETPOLICY, policy_id))

    def dump_policies(self) -> list[Policy]:
        """Every policy of this network namespace, without those of sockets."""
        replies = self._request(XfrmMsg.GETPOLICY, bytes(PolicyId.SIZE), NlmF.DUMP)
        policies = [Policy.parse(reply.body) for reply in replies]
        return [policy for policy in policies if policy.info.direction <= PolicyDirection.FWD]

    def flush_policies(self) -> None:
        """Every policy of this network namespace goes, also what is not ours: for laboratories."""
        self._request(XfrmMsg.FLUSHPOLICY, b"", NlmF.ACK)

    # -- many at once

    def batch(self, changes: Sequence[Change]) -> dict[int, XfrmError]:
        """Send many changes in few messages, which the kernel carries out in order; the refusals by position.

        One that is refused does not keep the kernel from the next.
        """
        refused: dict[int, XfrmError] = {}
        begun = 0
        while begun < len(changes):
            begun = self._batch_some(changes, begun, refused)
        return refused

    def _batch_some(self, changes: Sequence[Change], begun: int, refused: dict[int, XfrmError]) -> int:
        """As many as one send may hold; only the last asks for an answer, refusals come in any case."""
        first = self._sequence + 1
        bodies: list[bytes] = []
        octets = 0
        for _, request in islice(changes, begun, begun + _BATCH_MESSAGES):
            body = request.encode()
            octets += len(body)
            if bodies and octets > _BATCH_OCTETS:
                break
            bodies.append(body)
        ended = begun + len(bodies)
        self._sequence += len(bodies)
        messages = [
            encode_message(
                operation,
                NlmF.REQUEST | (NlmF.ACK if number == ended - 1 else 0),
                (first + number - begun) & 0xFFFFFFFF,
                body,
            )
            for number, ((operation, _), body) in enumerate(zip(changes[begun:ended], bodies, strict=True), begun)
        ]
        try:
            self._socket.send(b"".join(messages))
            while True:
                for message in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                    number = begun + (message.sequence - first & 0xFFFFFFFF)
                    if message.type != NlMsg.ERROR or not begun <= number < ended:
                        continue
                    try:
                        self._check(changes[number][0], message)
                    except XfrmError as error:
                        refused[number] = error
                    if number == ended - 1:
                        return ended
        except OSError as error:
            number = error.errno or 0
            raise XfrmError(sentence(changes[begun][0], number), number) from error

    # -- notices

    def listen(self, group: int, *, wanted: bool) -> None:
        """Join a multicast group, by its number, or leave it."""
        option = NETLINK_ADD_MEMBERSHIP if wanted else NETLINK_DROP_MEMBERSHIP
        try:
            self._socket.setsockopt(SOL_NETLINK, option, group)
        except OSError as error:
            number = error.errno or 0
            raise XfrmError(f"cannot listen to the kernel's notices: {os.strerror(number)}", number) from error

    def receive_notices(self) -> list[NetlinkMessage]:
        """What a socket with groups has waiting; an overrun loses notices in silence."""
        try:
            return list(parse_messages(self._socket.recv(_RECEIVE_OCTETS)))
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.ENOBUFS}:
                return []
            raise

    # -- transport

    def _one(self, operation: XfrmMsg, request: Request) -> bytes:
        replies = self._request(operation, request.encode(), NlmF(0))
        if not replies:
            raise XfrmError(f"cannot {_WHAT[operation]}: the kernel gave no answer", errno.ENODATA)
        return replies[0].body

    def _request(self, operation: XfrmMsg, body: bytes, flags: NlmF) -> list[NetlinkMessage]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF or 1
        try:
            self._socket.send(encode_message(operation, NlmF.REQUEST | flags, self._sequence, body))
            return self._collect(operation, many=NlmF.DUMP in flags)
        except (TimeoutError, struct.error) as error:
            raise XfrmError(f"cannot {_WHAT[operation]}: no usable answer from the kernel", 0) from error
        except OSError as error:
            number = error.errno or 0
            raise XfrmError(sentence(operation, number), number) from error

    def _collect(self, operation: XfrmMsg, *, many: bool) -> list[NetlinkMessage]:
        replies: list[NetlinkMessage] = []
        while True:
            for message in parse_messages(self._socket.recv(_RECEIVE_OCTETS)):
                if message.sequence != self._sequence:
                    continue
                if message.type == NlMsg.ERROR:
                    self._check(operation, message)
                    return replies
                if message.type == NlMsg.DONE:
                    return replies
                replies.append(message)
                if not many and not message.flags & NlmF.MULTI:
                    return replies

    @staticmethod
    def _check(operation: XfrmMsg, message: NetlinkMessage) -> None:
        """`struct nlmsgerr { int error; struct nlmsghdr msg; }`, then the attributes of the extended ack."""
        (negative,) = struct.unpack_from("=i", message.body)
        if negative == 0:
            return
        detail = ""
        if message.flags & NlmF.ACK_TLVS and message.flags & NlmF.CAPPED:
            text = parse_attributes(message.body, 20).get(_EXT_ACK_MESSAGE, b"")
            detail = text.rstrip(b"\0").decode("utf-8", "replace")
        raise XfrmError(sentence(operation, -negative, detail), -negative, detail)
