"""Linux XFRM over netlink: Child SAs in the kernel.

`uapi`, `structs`, `attributes`, `messages`, `aevents` and `migration` are the kernel's formats; `kernel` is the socket;
`selectors`, `algorithms`, `offload` and `plan` say what the kernel shall hold for a Child SA; `sa_table`,
`policy_table` and `standby` keep it there; `probe` finds what this kernel has; `state` and `cleaner` take care of
crashes; `backend` is the Child SA backend.
"""
