"""OWAMP (RFC 4656) and TWAMP (RFC 5357): measurement of paths, one way and two ways.

The public API: servers and clients of both over asyncio, and the interface by which shared secrets come in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ippm.errors import (
    ConfigurationError,
    ConnectionFailed,
    IppmError,
    NoSecret,
    ProtocolError,
    ServerRefused,
)
from ippm.iana import Accept, Mode

if TYPE_CHECKING:
    from ippm.core.control_events import ClientSetUp
    from ippm.core.control_events import Endpoint as PacketEndpoint
    from ippm.core.impair import Impairments
    from ippm.core.limits import Limits, LimitUsage
    from ippm.crypto import (
        ControlSecret,
        Entropy,
        KeyProvider,
        NoProvider,
        PassphraseProvider,
        SessionKeys,
        pbkdf2_token_key,
        seal_token,
        test_session_keys,
    )
    from ippm.io.continuous import run_continuous
    from ippm.io.continuous_one_way import run_continuous_owping
    from ippm.io.interrupt import unless_stopped, until_interrupted
    from ippm.io.key_agent import KeyAgentProvider
    from ippm.io.key_preference import PreferringProvider
    from ippm.io.keyfile import read_key_file
    from ippm.io.keylog import KeyLogWriter
    from ippm.io.limit_tables import parse_limits
    from ippm.io.options import ServerOptions, TwpingOptions
    from ippm.io.owamp_client import owping
    from ippm.io.owamp_options import OwampServerOptions, OwpingOptions
    from ippm.io.owamp_server import OwampServer
    from ippm.io.pacing import StopSignal
    from ippm.io.packet_path import PacketSession
    from ippm.io.transmit_stamps import StampOptions
    from ippm.io.twamp_client import TwampRun, run_twping, twping
    from ippm.io.twamp_server import TwampServer
    from ippm.report.forms import FORM_WORDS, Form, form_table, one_way_form, two_way_form
    from ippm.report.one_way import OneWayResult, format_one_way
    from ippm.report.result import RunResult
    from ippm.report.text import format_result
    from ippm.report.thresholds import Thresholds

__all__ = [
    "FORM_WORDS",
    "Accept",
    "ClientSetUp",
    "ConfigurationError",
    "ConnectionFailed",
    "ControlSecret",
    "Entropy",
    "Form",
    "Impairments",
    "IppmError",
    "KeyAgentProvider",
    "KeyLogWriter",
    "KeyProvider",
    "LimitUsage",
    "Limits",
    "Mode",
    "NoProvider",
    "NoSecret",
    "OneWayResult",
    "OwampServer",
    "OwampServerOptions",
    "OwpingOptions",
    "PacketEndpoint",
    "PacketSession",
    "PassphraseProvider",
    "PreferringProvider",
    "ProtocolError",
    "RunResult",
    "ServerOptions",
    "ServerRefused",
    "SessionKeys",
    "StampOptions",
    "StopSignal",
    "Thresholds",
    "TwampRun",
    "TwampServer",
    "TwpingOptions",
    "form_table",
    "format_one_way",
    "format_result",
    "one_way_form",
    "owping",
    "parse_limits",
    "pbkdf2_token_key",
    "read_key_file",
    "run_continuous",
    "run_continuous_owping",
    "run_twping",
    "seal_token",
    "test_session_keys",
    "two_way_form",
    "twping",
    "unless_stopped",
    "until_interrupted",
]

_LATER = {
    "Impairments": "ippm.core.impair",
    "StampOptions": "ippm.io.transmit_stamps",
    "StopSignal": "ippm.io.pacing",
    "run_continuous": "ippm.io.continuous",
    "run_continuous_owping": "ippm.io.continuous_one_way",
    "unless_stopped": "ippm.io.interrupt",
    "until_interrupted": "ippm.io.interrupt",
    "ClientSetUp": "ippm.core.control_events",
    "ControlSecret": "ippm.crypto",
    "Entropy": "ippm.crypto",
    "KeyProvider": "ippm.crypto",
    "NoProvider": "ippm.crypto",
    "PassphraseProvider": "ippm.crypto",
    "SessionKeys": "ippm.crypto",
    "pbkdf2_token_key": "ippm.crypto",
    "seal_token": "ippm.crypto",
    "test_session_keys": "ippm.crypto",
    "LimitUsage": "ippm.core.limits",
    "Limits": "ippm.core.limits",
    "PreferringProvider": "ippm.io.key_preference",
    "KeyAgentProvider": "ippm.io.key_agent",
    "read_key_file": "ippm.io.keyfile",
    "KeyLogWriter": "ippm.io.keylog",
    "parse_limits": "ippm.io.limit_tables",
    "PacketSession": "ippm.io.packet_path",
    "RunResult": "ippm.report.result",
    "format_result": "ippm.report.text",
    "OneWayResult": "ippm.report.one_way",
    "format_one_way": "ippm.report.one_way",
    "OwampServer": "ippm.io.owamp_server",
    "OwampServerOptions": "ippm.io.owamp_options",
    "OwpingOptions": "ippm.io.owamp_options",
    "owping": "ippm.io.owamp_client",
    "ServerOptions": "ippm.io.options",
    "TwampServer": "ippm.io.twamp_server",
    "TwpingOptions": "ippm.io.options",
    "twping": "ippm.io.twamp_client",
    "run_twping": "ippm.io.twamp_client",
    "TwampRun": "ippm.io.twamp_client",
    "FORM_WORDS": "ippm.report.forms",
    "Form": "ippm.report.forms",
    "one_way_form": "ippm.report.forms",
    "form_table": "ippm.report.forms",
    "two_way_form": "ippm.report.forms",
    "Thresholds": "ippm.report.thresholds",
}


def __getattr__(name: str) -> object:
    """Import cryptography, asyncio and reports only when they are asked for: `ippm --help` is to be quick."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
    if name == "PacketEndpoint":
        from ippm.core.control_events import Endpoint

        return Endpoint
    raise AttributeError(f"module 'ippm' has no attribute {name!r}")
