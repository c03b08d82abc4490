"""Which backend serves here: tried, not guessed.

The order of `auto` is: the kernel's own ESP, ESP of our own over a TUN device, both hosts in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType

from ikev2.core.child_sa import DfBit, HwOffload
from ikev2.core.config import ChildConfig, ConnectionConfig
from ikev2.crypto.keywords import numbered, transform_keyword
from ikev2.errors import BackendError, ConfigurationError
from ikev2.iana import TransformType
from ikev2.ipsec.backend import Backend, ProbeResult
from ikev2.wire.payloads import Proposal

AUTO = "auto"
AUTO_ORDER = ("xfrm", "userspace", "memory")

_BACKENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "xfrm": ("ikev2.ipsec.xfrm.backend", "XfrmBackend"),
        "userspace": ("ikev2.ipsec.userspace", "UserspaceBackend"),
        "memory": ("ikev2.ipsec.memory", "MemoryBackend"),
        "dry-run": ("ikev2.ipsec.dry_run", "DryRunBackend"),
    }
)
BACKEND_NAMES = (AUTO, *_BACKENDS)


def backend_class(name: str) -> type[Backend]:
    """The class of a backend by its name; ConfigurationError when there is none of that name."""
    where = _BACKENDS.get(name)
    if where is None:
        raise ConfigurationError(f"backend {name!r} does not exist: one of {', '.join(BACKEND_NAMES)}")
    module, attribute = where
    found: type[Backend] = getattr(import_module(module), attribute)
    return found


def _probe(name: str) -> ProbeResult:
    try:
        return backend_class(name).probe()
    except (ImportError, AttributeError) as error:
        return ProbeResult(name, False, f"the {name} backend cannot be loaded: {error}")


def probe_backends(probe: Callable[[str], ProbeResult] = _probe) -> tuple[ProbeResult, ...]:
    """Every backend of `AUTO_ORDER`, probed; for listings."""
    return tuple(probe(name) for name in AUTO_ORDER)


def installable(
    backend: Backend, connections: Iterable[ConnectionConfig]
) -> tuple[tuple[ConnectionConfig, ...], tuple[str, ...]]:
    """The connections with what this open backend can install in their ESP proposals, and what was left out, in words.

    ConfigurationError when a Child SA has no proposal left, or wants of the backend what is the kernel's.
    """
    kept, left_out = [], []
    for connection in connections:
        children = []
        for child in connection.children:
            where = f"child {child.name!r} of connection {connection.name!r}"
            if (words := _only_the_kernels(child)) and not backend.takes_kernel_options:
                raise ConfigurationError(
                    f"{where}: the {backend.name} backend has no {', '.join(words)}: "
                    "that is the kernel's, take it out or choose xfrm"
                )
            if words := _only_userspace(child, backend):
                raise ConfigurationError(
                    f"{where}: the {backend.name} backend has no {', '.join(words)}: take it out or choose userspace"
                )
            lacking: dict[str, None] = {}
            proposals = [
                part for one in child.esp_proposals if (part := _installable(backend, one, lacking)) is not None
            ]
            said = f"{where}: the {backend.name} backend has no {', '.join(lacking)}"
            if child.esp_proposals and not proposals:
                raise ConfigurationError(f"{said}: name others in esp_proposals, or choose another backend")
            if lacking:
                left_out.append(f"{said}: not offered and not taken")
            children.append(replace(child, esp_proposals=numbered(proposals)) if lacking else child)
        kept.append(replace(connection, children=tuple(children)))
    return tuple(kept), tuple(left_out)


def _only_the_kernels(child: ChildConfig) -> list[str]:
    """The words of a Child SA that only the kernel heeds, where they say anything."""
    asked = {
        "if_id_in": child.kernel.if_id_in,
        "if_id_out": child.kernel.if_id_out,
        "hw_offload": child.kernel.hw_offload is not HwOffload.NO,
        "sa_direction": child.kernel.sa_direction,
    }
    return [word for word, said in asked.items() if said]


def _only_userspace(child: ChildConfig, backend: Backend) -> list[str]:
    """The words of a Child SA that this backend does not heed, but ESP in userspace does, where they say anything."""
    asked = {
        "df_bit": not backend.makes_outer_headers and child.header.df is not DfBit.COPY,
        "dscp": not backend.makes_outer_headers and child.header.dscp is not None,
        "dummy_interval": not backend.sends_dummies and bool(child.dummies.interval_s),
    }
    return [word for word, said in asked.items() if said]


def _installable(backend: Backend, proposal: Proposal, lacking: dict[str, None]) -> Proposal | None:
    """The proposal without what the backend lacks, whose keywords are noted; None when it has no cipher any more."""
    kept = tuple(transform for transform in proposal.transforms if backend.carries(transform))
    if len(kept) == len(proposal.transforms):
        return proposal
    lacking |= dict.fromkeys(transform_keyword(gone) for gone in proposal.transforms if gone not in kept)
    part = replace(proposal, transforms=kept)
    needed = [kind for kind in (TransformType.ENCR, TransformType.INTEG) if proposal.of_type(kind)]
    return part if all(part.of_type(kind) for kind in needed) else None


def choose_backend(
    wanted: str = AUTO, *, probe: Callable[[str], ProbeResult] = _probe
) -> tuple[type[Backend], str]:
    """The backend to use and, in one sentence, why.

    "auto" takes the first that serves. A name takes that one, and raises BackendError with the reason when it does
    not serve here. The probes run in the network namespace of the calling thread.
    """
    if wanted != AUTO:
        chosen = backend_class(wanted)
        found = probe(wanted)
        if not found.ok:
            raise BackendError(f"backend {wanted}: {found.reason}")
        return chosen, f"{wanted}, as configured: {found.reason}"
    refusals: list[str] = []
    for name in AUTO_ORDER:
        found = probe(name)
        if found.ok:
            why = f"{name}: {found.reason}"
            return backend_class(name), "; ".join([why, *refusals])
        refusals.append(f"not {name}: {found.reason}")
    raise BackendError("no backend serves here; " + "; ".join(refusals))
