"""The `ikev2` command."""
