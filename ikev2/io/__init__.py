"""Sockets, files and processes around the sans-IO core."""
