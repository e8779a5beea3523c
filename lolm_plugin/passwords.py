"""Removal of secrets from database addresses. Only addresses rebuilt without secrets are printed or stored."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from lolm_plugin.errors import ConfigError

HIDDEN = "***"
FORM = "mongodb://HOST:PORT/NAME"  # docs/dashboard.md has a form with a user; in a message its password would be hidden
# Options whose values may be shown. All other values are hidden: an unknown option may hold a password.
_SHOWN = (
    "appname authmechanism authsource compressors connecttimeoutms directconnection journal loadbalanced "
    "localthresholdms maxidletimems maxpoolsize minpoolsize readconcernlevel readpreference replicaset retryreads "
    "retrywrites serverselectiontimeoutms sockettimeoutms ssl timeoutms tls tlsinsecure w wtimeoutms"
)
SHOWN = frozenset(_SHOWN.split())
_SCHEME = r"mongodb(?:\+srv)?"
_HOST = re.compile(r"(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d+)?|(?:[\w.-]|%[\da-fA-F]{2})+\.sock")
# An address that is a whole value, or an argument such as --mongo=ADDRESS.
_WHOLE = re.compile(rf"((?:-{{0,2}}[\w.-]+=)?\s*['\"]?)({_SCHEME}://.*)", re.DOTALL)
# In running text the end of an address is uncertain. Everything up to the last @ before the next address, or before the
# end of the line, is treated as a password.
_DATABASE = re.compile(
    r"((?:mongodb|postgres\w*|mysql|mariadb|mssql|oracle|redis)(?:\+\w+)?://)"
    r"((?:(?!\s[\w+.-]+://)[^\n])*@)?([^\s'\"?]*)(\?[^\s'\"]*)?"
)
_USER = re.compile(r"(?<=://)[^/\s]+@")


@dataclass(frozen=True)
class Address:
    """Address of a MongoDB. Only ``shown`` may be printed or stored."""

    text: str = field(repr=False)  # the full address, for connecting
    shown: str
    secrets: tuple[str, ...] = field(repr=False, default=())

    def __str__(self) -> str:
        return self.shown

    def hide(self, text: str) -> str:
        """Remove this address's secrets, quoted or not, from ``text``, such as a driver's error."""
        text = text.replace(self.text, self.shown)
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return hidden(text)


def parse(text: str, option: str) -> Address:
    """Parse the address that ``option`` was set to.

    Raises:
        ConfigError: it is not an address, or is ambiguous. The message does not quote it.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        raise ConfigError(
            f"{option} is not the address of a MongoDB; write it as {FORM}, or as shown in docs/dashboard.md."
        )
    place, _, query = rest.partition("?")
    authority, slash, database = place.partition("/")
    user, at, hosts = authority.rpartition("@")
    # A later @, a second @ or a second colon: the user name or password contains an unquoted separator.
    if "@" in database + query or "@" in user or user.count(":") > 1 or re.search(r"%(?![\da-fA-F]{2})", user):
        raise ConfigError(
            f"{option} has a character in its user name or password that must be quoted; write %40 for @, "
            "%2F for /, %3A for :, %3F for ? and %25 for %, as Python's urllib.parse.quote_plus does."
        )
    options = [pair.partition("=") for pair in re.split("[&;]", query) if pair]
    if (
        not all(_HOST.fullmatch(host) for host in hosts.split(","))
        or not re.fullmatch(r"[\w.%-]*", database)
        or not all(sign and re.fullmatch(r"\w+", key) for key, sign, _ in options)
    ):
        raise ConfigError(
            f"{option} cannot be read as the address of a MongoDB; write it as {FORM}?OPTION=VALUE (docs/dashboard.md)."
        )
    pairs = [f"{key}={value if key.lower() in SHOWN else HIDDEN}" for key, _, value in options]
    shown = f"{scheme}://{HIDDEN if at else ''}{at}{hosts}{slash}{database}{'?' if pairs else ''}{'&'.join(pairs)}"
    values = [value for key, _, value in options if key.lower() not in SHOWN]
    values += [part.partition(":")[2] for value in values for part in unquote(value).split(",")]
    found = {user, user.partition(":")[2], *values}
    secrets = sorted({form for secret in found for form in (secret, unquote(secret)) if form}, key=len, reverse=True)
    return Address(text.strip(), shown, tuple(secrets))


def hidden(value: Any) -> Any:
    """Replace the secrets of all addresses in ``value``, a string or nested strings, by ``***``."""
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, Mapping):
        return {key: hidden(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [hidden(item) for item in value]
    return value


def hidden_words(words: Iterable[str]) -> list[str]:
    """Remove secrets from the words of a command line. An address that cannot be parsed is removed completely."""
    return [_rebuilt(word) or _without_secrets(word) for word in words]


def holds_address(text: str) -> bool:
    """Return True if ``text`` contains the address of a database."""
    return _DATABASE.search(text) is not None


def _rebuilt(word: str) -> str:
    """Rebuild a word that is an address, without its secrets. Return "" for any other word."""
    match = _WHOLE.fullmatch(word)
    if match is None:
        return ""
    before, address = match.groups()
    try:
        return before + parse(address, "").shown
    except ConfigError:
        return f"{before}{address.partition('://')[0]}://{HIDDEN}"


def _without_secrets(text: str) -> str:
    if "://" not in text:
        return text
    if "\n" not in text and (match := _WHOLE.fullmatch(text)):
        try:
            return match[1] + parse(match[2], "").shown
        except ConfigError:  # may be a sentence that begins with an address
            pass
    return _USER.sub(f"{HIDDEN}@", _DATABASE.sub(_hidden_database, text))


def _hidden_database(match: re.Match[str]) -> str:
    scheme, user, rest, query = match.groups()
    options = [pair.partition("=") for pair in re.split("[&;]", (query or "?")[1:]) if pair]
    pairs = "&".join(f"{key}={value if key.lower() in SHOWN else HIDDEN}" for key, _, value in options)
    return f"{scheme}{HIDDEN + '@' if user else ''}{rest}{'?' if pairs else ''}{pairs}"
