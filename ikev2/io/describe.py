"""The core's events as lines of the log, in strongSwan's phrasing."""

from __future__ import annotations

from ikev2.core.events import (
    AddressesLeased,
    AddressesReleased,
    AddressesTaken,
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaHalfClosed,
    ChildSaMoved,
    ChildSaReady,
    ChildSaRekeyed,
    Event,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaFailed,
    IkeSaRekeyed,
    IkeSaRekeyFailed,
)

CHILD_EVENTS = (ChildSaReady, ChildSaRekeyed, ChildSaDeleted, ChildSaFailed, ChildSaMoved, ChildSaHalfClosed)


def describe_event(event: Event) -> str:
    """An event as a line of the log, in strongSwan's phrasing; empty when it is not worth one."""
    match event:
        case IkeSaEstablished(sa):
            return (
                f"IKE_SA {sa.name}[{sa.spi_i.hex()}:{sa.spi_r.hex()}] established between "
                f"{sa.local.host}[{sa.local_id}]...{sa.remote.host}[{sa.remote_id}]"
            )
        case IkeSaFailed(sa, reason):
            return f"IKE_SA {sa.name}[{sa.spi_i.hex()}:{sa.spi_r.hex()}] failed: {reason}"
        case IkeSaDeleted(sa, reason):
            return f"IKE_SA {sa.name}[{sa.spi_i.hex()}:{sa.spi_r.hex()}] deleted: {reason}"
        case ChildSaReady(child):
            local, remote = (" ".join(map(str, ts)) for ts in (child.ts_local, child.ts_remote))
            return (
                f"CHILD_SA {child.label} established with SPIs {child.spi_in:08x}_i {child.spi_out:08x}_o "
                f"and TS {local} === {remote}"
            )
        case ChildSaDeleted(child, reason):
            return f"CHILD_SA {child.label} deleted" + (f": {reason}" if reason else "")
        case ChildSaRekeyed(old, new):
            return f"CHILD_SA {new.label} replaces {old.label}: outbound traffic uses SPI {new.spi_out:08x}"
        case IkeSaRekeyed(old_sa, new_sa):
            return (
                f"IKE_SA {new_sa.name}[{new_sa.spi_i.hex()}:{new_sa.spi_r.hex()}] rekeyed "
                f"{old_sa.name}[{old_sa.spi_i.hex()}:{old_sa.spi_r.hex()}]"
            )
        case IkeSaRekeyFailed(sa, reason):
            return f"IKE_SA {sa.name}[{sa.spi_i.hex()}:{sa.spi_r.hex()}] could not be rekeyed: {reason}"
        case AddressesTaken(_, addresses, dns):
            servers = f", DNS servers {' '.join(dns)}" if dns else ""
            return f"installing new virtual IP {' '.join(addresses)}{servers}"
        case AddressesReleased(_, addresses):
            return f"virtual IP {' '.join(addresses)} given back"
        case AddressesLeased(sa, addresses):
            return f"assigning virtual IP {' '.join(addresses)} to peer '{sa.remote_id}'"
        case ChildSaFailed(_, name, reason):
            return f"CHILD_SA {name} failed: {reason}"
        case ChildSaMoved(_, new):
            return f"CHILD_SA {new.label} moved to {new.local}...{new.remote}"
        case _:
            return ""
