"""What the manager decides by, replaced as a whole when the configuration is read again."""

from collections.abc import Callable
from dataclasses import dataclass

from deliveryagent.policy.concurrency import ConcurrencySettings
from deliveryagent.policy.retry import RetrySettings
from deliveryagent.policy.routing import Router


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Routing, retry times and limits.

    ``recipient_limit`` and ``site_limit`` give a route's recipients per request and requests per site; the
    index -1 stands for no route.
    """

    router: Router
    retry: RetrySettings
    concurrency: ConcurrencySettings
    recipient_limit: Callable[[int], int]
    site_limit: Callable[[int], int]
    shutdown_grace: float
