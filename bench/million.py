"""Sessions of 1,000,000 packets, two ways and one way: time, memory, and what became of the packets.

A server in one process, a client in another, over loopback, one packet each 40 us. Prints one line a session: seconds
from the start of the client to its report (the records fetched, all metrics made), resident memory of the client and of
the server at their most, packets sent, received and not sent because their time was past by more than Timeout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

COMMAND = [sys.executable, "-m", "ippm"]
COUNT = 1_000_000
INTERVAL = "0.00004f"


def run(*arguments: str) -> tuple[dict[str, Any], float, int]:
    """The first result of a client, its seconds and its MiB."""
    began = time.monotonic()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        text = client.stdout.read()
        _, status, usage = os.wait4(client.pid, 0)
        client.returncode = os.waitstatus_to_exitcode(status)
    document = json.loads(text)
    result: dict[str, Any] = (document.get("results") or [document["result"]])[0]
    return result, time.monotonic() - began, usage.ru_maxrss // 1024


def sessions(server: subprocess.Popen[str]) -> None:
    """One session of each kind."""
    assert server.stdout is not None
    ports = [server.stdout.readline().split()[-1] for _ in range(2)]
    for name, port, options in (("twping", ports[1], []), ("owping", ports[0], ["-t"])):
        wanted = ["-c", str(COUNT), "-i", INTERVAL, "-L", "10", "--json", f"127.0.0.1:{port}"]
        result, seconds, mebibytes = run(name, *options, *wanted)
        delay = result["delay"]
        print(
            f"{name}: {seconds:.1f} s, client {mebibytes} MiB ({mebibytes * 1_048_576 // COUNT} octets a packet), "
            f"sent {result['sent']}, received {result['received']}, skipped {result['skipped']}; "
            f"error of the quantiles {delay['quantile_error_ppm']} ppm"
        )


def main() -> None:
    """A server, and the sessions."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    serve = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "32000-32099"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            sessions(server)
        finally:
            server.terminate()
        _, status, usage = os.wait4(server.pid, 0)
        server.returncode = os.waitstatus_to_exitcode(status)
    print(f"server: {usage.ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
