"""Sockets, clocks and the measurement loop."""
