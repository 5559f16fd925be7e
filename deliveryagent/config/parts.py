"""What the parts of an agent are told of the configuration.

Each function gives one part what it asks for, in that part's own words. Never reads anything.
"""

from collections.abc import Callable
from dataclasses import fields

from deliveryagent.agent.bounce import Composer
from deliveryagent.agent.rules import Rules
from deliveryagent.agent.worker_settings import WorkerSettings
from deliveryagent.config.sections import Config, DeliverySection
from deliveryagent.intake.listener_settings import ListenerSettings
from deliveryagent.intake.listener_terms import ListenerTerms
from deliveryagent.intake.submit import Terms
from deliveryagent.mail.submission import CONTENT_PART
from deliveryagent.policy.routing import Router
from deliveryagent.protocol.arrival import LimitSettings
from deliveryagent.queue.inflow import Conditions


def rules(config: Config) -> Rules:
    """What the manager decides by."""

    def delivery(route: int) -> DeliverySection:
        return config.route[route].delivery if route >= 0 else config.delivery

    return Rules(
        router=Router(config.route, config.relay),
        retry=config.queue,
        concurrency=config.delivery,
        recipient_limit=lambda route: delivery(route).default_destination_recipient_limit,
        site_limit=lambda route: delivery(route).default_destination_concurrency_limit,
        shutdown_grace=config.delivery.shutdown_grace,
    )


def worker_settings(config: Config, identity: bytes) -> bytes:
    """What workers of the queue with this identity are told at their start."""
    limit = rules(config).recipient_limit
    return WorkerSettings(
        hostname=config.hostname,
        identity=identity,
        dns=config.dns,
        loop=config.delivery,
        smtp=config.smtp,
        lmtp=config.lmtp,
        routes=tuple((route.smtp, route.lmtp) for route in config.route),
        recipient_limit=max(limit(route) for route in range(-1, len(config.route))),
        minimal_backoff_time=config.queue.minimal_backoff_time,
    ).encode()


def composer(config: Config, new_id: Callable[[], int], clock: Callable[[], float]) -> Composer:
    """Who writes reports and notices."""
    return Composer(
        hostname=config.hostname,
        postmaster=config.postmaster,
        notices=config.delivery,
        retry=config.queue,
        new_id=new_id,
        clock=clock,
        part_size=CONTENT_PART,
    )


def terms(config: Config) -> Terms:
    """What holds for every message that is handed over."""
    return Terms(
        hostname=config.hostname,
        origin=config.origin,
        limits=config.queue,
        part_size=CONTENT_PART,
        bulk_after=config.delivery.default_destination_recipient_limit,
    )


def listener_terms(config: Config, listener: ListenerSettings, passphrase: str) -> ListenerTerms:
    """What a listener process is told."""
    # Of [queue] these and no more: the address of the store may hold a password.
    limits = {field.name: getattr(config.queue, field.name) for field in fields(LimitSettings)}
    return ListenerTerms(
        listener=listener,
        hostname=config.hostname,
        limits=LimitSettings(**limits),
        dns=config.dns,
        log=config.log,
        run_dir=config.run_dir,
        part_size=CONTENT_PART,
        bulk_after=config.delivery.default_destination_recipient_limit,
        passphrase=passphrase,
    )


def conditions(config: Config) -> Conditions:
    """The same for messages that applications enqueue inside their own transactions."""
    limits = config.queue
    return Conditions(
        hostname=config.hostname,
        message_size_limit=limits.message_size_limit,
        recipient_limit=limits.recipient_limit,
        header_size_limit=limits.header_size_limit,
        hopcount_limit=limits.hopcount_limit,
        bulk_after=config.delivery.default_destination_recipient_limit,
    )
