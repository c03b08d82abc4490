"""IKEv2 (RFC 7296) initiator and responder.

Names are imported when they are first used: `import ikev2` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ikev2.cli.config import load as load_configuration
    from ikev2.core.child_sa import ChildCounters, ChildSaParameters
    from ikev2.core.config import ChildConfig, ConnectionConfig, Identity
    from ikev2.core.events import ChildSaReady
    from ikev2.core.exporter import KeyExporter, KeyHandle, NoSuchSa
    from ikev2.core.info import IkeSaInfo
    from ikev2.crypto.prf import prf_by_name
    from ikev2.crypto.secret import SecretOctets
    from ikev2.errors import BackendError, ConfigurationError, IkeError, LocalProtocolError
    from ikev2.io.configuration import Configuration, EndpointConfig
    from ikev2.io.control import call as control_call
    from ikev2.io.daemon import Daemon, DaemonOptions
    from ikev2.io.endpoint import Endpoint
    from ikev2.io.key_agent import KeyAgentClient
    from ikev2.io.keylog import KeyLogWriter
    from ikev2.io.log import LogRing
    from ikev2.io.netns import TwoHosts, probe_namespaces, probe_unshare
    from ikev2.io.pcap import InterfaceCapture, PcapWriter
    from ikev2.ipsec.backend import Backend, Bypass
    from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork
    from ikev2.ipsec.probe import choose_backend

__all__ = [
    "Backend",
    "BackendError",
    "Bypass",
    "ChildConfig",
    "ChildCounters",
    "ChildSaParameters",
    "ChildSaReady",
    "Configuration",
    "ConfigurationError",
    "ConnectionConfig",
    "Daemon",
    "DaemonOptions",
    "Endpoint",
    "EndpointConfig",
    "Identity",
    "IkeError",
    "IkeSaInfo",
    "InterfaceCapture",
    "KeyAgentClient",
    "KeyExporter",
    "KeyHandle",
    "KeyLogWriter",
    "LocalProtocolError",
    "LogRing",
    "MemoryBackend",
    "MemoryNetwork",
    "NoSuchSa",
    "PcapWriter",
    "SecretOctets",
    "TwoHosts",
    "choose_backend",
    "control_call",
    "load_configuration",
    "prf_by_name",
    "probe_namespaces",
    "probe_unshare",
]

_MODULES = {
    "ikev2.cli.config": ("load_configuration",),
    "ikev2.core.child_sa": ("ChildCounters", "ChildSaParameters"),
    "ikev2.core.config": ("ChildConfig", "ConnectionConfig", "Identity"),
    "ikev2.core.events": ("ChildSaReady",),
    "ikev2.core.info": ("IkeSaInfo",),
    "ikev2.core.exporter": ("KeyExporter", "KeyHandle", "NoSuchSa"),
    "ikev2.crypto.prf": ("prf_by_name",),
    "ikev2.crypto.secret": ("SecretOctets",),
    "ikev2.errors": ("BackendError", "ConfigurationError", "IkeError", "LocalProtocolError"),
    "ikev2.io.configuration": ("Configuration", "EndpointConfig"),
    "ikev2.io.control": ("control_call",),
    "ikev2.io.daemon": ("Daemon", "DaemonOptions"),
    "ikev2.io.endpoint": ("Endpoint",),
    "ikev2.io.key_agent": ("KeyAgentClient",),
    "ikev2.io.keylog": ("KeyLogWriter",),
    "ikev2.io.log": ("LogRing",),
    "ikev2.io.netns": ("TwoHosts", "probe_namespaces", "probe_unshare"),
    "ikev2.io.pcap": ("InterfaceCapture", "PcapWriter"),
    "ikev2.ipsec.backend": ("Backend", "Bypass"),
    "ikev2.ipsec.memory": ("MemoryBackend", "MemoryNetwork"),
    "ikev2.ipsec.probe": ("choose_backend",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
_RENAMED = {"control_call": "call", "load_configuration": "load"}


def __getattr__(name: str) -> object:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
