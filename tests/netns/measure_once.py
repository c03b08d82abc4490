"""One measurement on this host, as `ippm owping` and `ippm twping` make it; its report and every packet as JSON.

    python tests/netns/measure_once.py twamp|owamp OPTIONS       (a JSON object of TwpingOptions or OwpingOptions)

Stamps are those that the report is made of, nanoseconds since 1970. A two-way packet is [number, T1, T2, T3, T4], of
those that were answered; a one-way packet is [number, sent, received], in the order of arrival and with copies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from ippm.io.options import TwpingOptions
from ippm.io.owamp_client import run_owping
from ippm.io.owamp_options import OwpingOptions
from ippm.io.twamp_client import run_twping
from ippm.report.packets import crossings
from ippm.timestamps import unix_ns_from_ntp
from ippm.wire.packet_record import PacketRecord


def stamps(packet: PacketRecord) -> list[int]:
    return [unix_ns_from_ntp(packet.send_timestamp), unix_ns_from_ntp(packet.receive_timestamp)]


def twamp(options: dict[str, Any]) -> dict[str, Any]:
    run = asyncio.run(run_twping(TwpingOptions(**options)))
    both = [(there, back) for there, back in crossings(run.records) if back is not None]
    packets = [[there.sequence_number, *stamps(there), *stamps(back)] for there, back in both]
    return {"reports": [run.result.to_dict()], "packets": [packets]}


def owamp(options: dict[str, Any]) -> dict[str, Any]:
    run = asyncio.run(run_owping(OwpingOptions(**options)))
    packets = [
        [[packet.sequence_number, *stamps(packet)] for packet in result.measured.packets if not packet.lost]
        for result in run.results
    ]
    return {"reports": [result.to_dict() for result in run.results], "packets": packets}


if __name__ == "__main__":
    print(json.dumps({"twamp": twamp, "owamp": owamp}[sys.argv[1]](json.loads(sys.argv[2]))))
