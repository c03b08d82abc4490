"""Linux XFRM over netlink."""
