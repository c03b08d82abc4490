"""The `ippm` command."""
