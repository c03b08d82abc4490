"""Linux XFRM over netlink: Child SAs in the kernel.

`uapi`, `structs`, `attributes` and `messages` are the kernel's formats; `kernel` is the socket; `selectors`,
`algorithms` and `plan` say what the kernel shall hold for a Child SA; `state` and `cleaner` take care of crashes;
`backend` is the Child SA backend.
"""
