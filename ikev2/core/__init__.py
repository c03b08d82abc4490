"""The sans-IO protocol: no socket, clock or operating-system entropy below here."""
