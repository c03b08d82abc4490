"""One UDP port, two sockets: the kernel gives IKE to one and ESP to the other.

On the NAT traversal port the first four octets tell the two apart: zero announces IKE, all else is an SPI (RFC 3948
section 2.2). Linux can be told so: sockets bound to one port with SO_REUSEPORT are a group, of which a classic BPF
program, run on the octets behind the UDP header, chooses one by its number in the order of binding. Neither side then
reads, or waits for, what is the other's.

RFC 3948 section 2, RFC 7296 section 2.23; socket(7) for SO_ATTACH_REUSEPORT_CBPF.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter of linux/filter.h: code, jump if true, if false, operand
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: instructions, where they are
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_IKE, _ESP = 0, 1
_INSTRUCTIONS = (
    (_LOAD_WORD, 0, 0, 0),  # what is shorter, as a NAT keepalive is, ends the program here with 0: IKE's
    (_JUMP_EQUAL, 0, 1, 0),
    (_RETURN, 0, 0, _IKE),
    (_RETURN, 0, 0, _ESP),
)


def share(bound: socket.socket, other: socket.socket) -> bool:
    """Bind `other` to the address of `bound`: ESP comes to it from now on, and all else to `bound`.

    False where the kernel does not do that: `other` is of no use then. A program of another user cannot join in, nor
    one that does not ask for SO_REUSEPORT.
    """
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in _INSTRUCTIONS))
    program = _PROGRAM.pack(len(_INSTRUCTIONS), ctypes.addressof(code))
    try:
        # Not before the first is bound: that another has the port is to be an error, as ever.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(bound.getsockname())
        other.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError:
        with contextlib.suppress(OSError):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return False
    return True
