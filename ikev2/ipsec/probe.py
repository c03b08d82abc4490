"""Which backend serves here: tried, not guessed.

The order of `auto` is: the kernel's own ESP, ESP of our own over a TUN device, both hosts in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

from ikev2.core.config import ConnectionConfig
from ikev2.crypto.keywords import transform_keyword
from ikev2.errors import BackendError, ConfigurationError
from ikev2.iana import TransformType
from ikev2.ipsec.backend import Backend, ProbeResult

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


def require_ciphers(backend: Backend, connections: Iterable[ConnectionConfig]) -> None:
    """ConfigurationError when a Child SA may be negotiated with a cipher that the backend does not have."""
    for connection in connections:
        for child in connection.children:
            for proposal in child.esp_proposals:
                for transform in proposal.of_type(TransformType.ENCR):
                    if not backend.carries(transform.id):
                        where = f"child {child.name!r} of connection {connection.name!r}"
                        raise ConfigurationError(
                            f"{where}: the {backend.name} backend has no {transform_keyword(transform)}: "
                            "take it out of esp_proposals, or choose another backend"
                        )


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
