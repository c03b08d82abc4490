"""`python -m ikev2`."""

from __future__ import annotations

from ikev2.cli.main import main

if __name__ == "__main__":
    main(prog_name="ikev2")
