"""Settings of the server."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from fairseq_resmlp.common.errors import InputError

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Settings:
    """Settings of the server, the same for all models.

    Args:
        beam: beam size, and the number of translations in the result of a stream
        max_batch: maximum number of sentences that are translated together; 1 disables batching
        max_waiting: maximum number of waiting requests per model; further ones are refused
        max_characters: maximum number of characters per request
        max_lines: maximum number of lines per request, over all of its texts
        rate: maximum requests per minute and client; None: unlimited
        character_rate: maximum characters per minute and client; None: unlimited
        api_keys: keys that requests must contain one of; none: no key is required
        trusted_proxies: addresses of proxies whose X-Forwarded-For header is believed
        allowed_hosts: further names of this server in the Host header
        allowed_origins: origins of pages that may use the API, such as https://example.org
        max_connections: maximum number of open connections, half of which one client may have
        client_timeout: seconds within which a client must send a request, and must read an answer
        examples: texts to try on the page

    Raises:
        InputError: the limits contradict each other
    """

    beam: int = 4
    max_batch: int = 64
    max_waiting: int = 256
    max_characters: int = 5000
    max_lines: int = 200
    rate: int | None = None
    character_rate: int | None = None
    api_keys: Collection[str] = ()
    trusted_proxies: Sequence[IPNetwork] = ()
    allowed_hosts: Collection[str] = ()
    allowed_origins: Collection[str] = ()
    max_connections: int = 256
    client_timeout: float = 15.0
    examples: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.character_rate is not None and self.character_rate < self.max_characters:
            raise InputError(
                f"--character-rate {self.character_rate} is smaller than --max-characters {self.max_characters}: a "
                "request of the maximum size would never be accepted"
            )

    @property
    def max_body(self) -> int:
        """Maximum size of a request in bytes: enough for the characters in any encoding (%F0%9F%98%80 is one)."""
        return 12 * self.max_characters + (1 << 14)
