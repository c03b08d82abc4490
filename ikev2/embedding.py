"""What a program needs that has an IKE endpoint in it: configuration, the endpoint as a process, backends, keys.

`ikev2` itself holds the names for those who test another implementation (docs/testing.md); these are for those who
run this one, as `binding` does. Both are public; nothing else of the package is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2._lazy import lazy

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

_WHERE = {
    "Backend": "ikev2.ipsec.backend:Backend",
    "BackendError": "ikev2.errors:BackendError",
    "Bypass": "ikev2.ipsec.backend:Bypass",
    "ChildConfig": "ikev2.core.config:ChildConfig",
    "ChildCounters": "ikev2.core.child_sa:ChildCounters",
    "ChildSaParameters": "ikev2.core.child_sa:ChildSaParameters",
    "ChildSaReady": "ikev2.core.events:ChildSaReady",
    "Configuration": "ikev2.io.configuration:Configuration",
    "ConfigurationError": "ikev2.errors:ConfigurationError",
    "ConnectionConfig": "ikev2.core.config:ConnectionConfig",
    "Daemon": "ikev2.io.daemon:Daemon",
    "DaemonOptions": "ikev2.io.daemon:DaemonOptions",
    "Endpoint": "ikev2.io.endpoint:Endpoint",
    "EndpointConfig": "ikev2.io.configuration:EndpointConfig",
    "Identity": "ikev2.core.config:Identity",
    "IkeError": "ikev2.errors:IkeError",
    "IkeSaInfo": "ikev2.core.info:IkeSaInfo",
    "InterfaceCapture": "ikev2.io.pcap:InterfaceCapture",
    "KeyAgentClient": "ikev2.io.key_agent:KeyAgentClient",
    "KeyExporter": "ikev2.core.exporter:KeyExporter",
    "KeyHandle": "ikev2.core.exporter:KeyHandle",
    "KeyLogWriter": "ikev2.io.keylog:KeyLogWriter",
    "LocalProtocolError": "ikev2.errors:LocalProtocolError",
    "LogRing": "ikev2.io.log:LogRing",
    "MemoryBackend": "ikev2.ipsec.memory:MemoryBackend",
    "MemoryNetwork": "ikev2.ipsec.memory:MemoryNetwork",
    "NoSuchSa": "ikev2.core.exporter:NoSuchSa",
    "PcapWriter": "ikev2.io.pcap:PcapWriter",
    "SecretOctets": "ikev2.crypto.secret:SecretOctets",
    "TwoHosts": "ikev2.io.netns:TwoHosts",
    "choose_backend": "ikev2.ipsec.probe:choose_backend",
    "control_call": "ikev2.io.control:call",
    "load_configuration": "ikev2.cli.config:load",
    "prf_by_name": "ikev2.crypto.prf:prf_by_name",
    "probe_namespaces": "ikev2.io.netns:probe_namespaces",
    "probe_unshare": "ikev2.io.netns:probe_unshare",
}

__getattr__ = lazy(__name__, globals(), _WHERE)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
