"""Numbers of `linux/xfrm.h` and `linux/netlink.h` that the xfrm backend uses, under the kernel's own names.

They are userspace ABI: they never change. Names keep the kernel's spelling without the `XFRM` prefix of the enum.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

NETLINK_XFRM = 6
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11

IP_XFRM_POLICY = 17
IPV6_XFRM_POLICY = 35
UDP_ENCAP = 100
UDP_ENCAP_ESPINUDP = 2

XFRM_INF = 0xFFFF_FFFF_FFFF_FFFF
GROUP_ACQUIRE = 1 << 0
GROUP_EXPIRE = 1 << 1
GROUP_MAPPING = 1 << 7
GROUP_NUMBER_AEVENTS = 5
GROUP_MIGRATE = 1 << 6
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_DROP_MEMBERSHIP = 2
ALL_ALGORITHMS = 0xFFFF_FFFF
ANY_SPI = 0


class NlMsg(IntEnum):
    """Message types below NLMSG_MIN_TYPE: the control messages of netlink itself."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4


class NlmF(IntFlag):
    """`NLM_F_*` of the netlink header; 0x100 and 0x200 mean other things in a GET and in a NEW."""

    REQUEST = 0x01
    MULTI = 0x02
    ACK = 0x04
    CAPPED = 0x100
    ACK_TLVS = 0x200
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    ROOT = 0x100
    MATCH = 0x200
    DUMP = 0x300


class XfrmMsg(IntEnum):
    """`XFRM_MSG_*`."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    MIGRATE = 0x21
    MAPPING = 0x26


class Xfrma(IntEnum):
    """`XFRMA_*`, the attributes behind a message's fixed part. `MARK` is named only to be refused."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    MIGRATE = 17
    ALG_AEAD = 18
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    OFFLOAD_DEV = 28
    IF_ID = 31
    SA_DIR = 33


class SaFlag(IntFlag):
    """`XFRM_STATE_*` flags of an SA."""

    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


class SaMode(IntEnum):
    """`XFRM_MODE_*`."""

    TRANSPORT = 0
    TUNNEL = 1


class SaDirection(IntEnum):
    """`XFRM_SA_DIR_*`: which way an SA is for; kernels before 6.10 read over it."""

    IN = 1
    OUT = 2


class OffloadFlag(IntFlag):
    """`XFRM_OFFLOAD_*`; without PACKET the device does the cipher and the kernel the rest."""

    INBOUND = 2
    PACKET = 4


class PolicyDirection(IntEnum):
    """`XFRM_POLICY_*`: which of the kernel's lists a policy is in; the last two are those of single sockets."""

    IN = 0
    OUT = 1
    FWD = 2
    SOCKET_IN = 3
    SOCKET_OUT = 4


class PolicyAction(IntEnum):
    """`XFRM_POLICY_ALLOW` and `_BLOCK`; ALLOW without a template is a bypass."""

    ALLOW = 0
    BLOCK = 1
