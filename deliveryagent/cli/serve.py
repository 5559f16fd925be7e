"""``dagent serve``: the agent in the foreground."""

from typing import TYPE_CHECKING

import click

from deliveryagent.cli.command import Invocation, command

if TYPE_CHECKING:
    from deliveryagent.config import Config


@command(
    "serve",
    examples=[
        "dagent serve",
        "dagent serve --until-idle",
        "dagent -c test.toml --set log.format=json serve",
    ],
)
@click.option(
    "--until-idle",
    is_flag=True,
    help="End with status 0 as soon as nothing is runnable now and no attempt is in flight.",
)
@click.pass_obj
def serve(invocation: Invocation, until_idle: bool) -> int:
    """Run queue manager, workers and the local socket in the foreground.

    SIGTERM lets running deliveries end and exits 0; a second one does not wait. SIGHUP reads the
    configuration again and keeps the old one when the new one is bad.
    """
    from deliveryagent import service
    from deliveryagent.config.listener_files import require_files
    from deliveryagent.config.read import load_with_origins

    def read() -> "Config":
        loaded = load_with_origins(invocation.config_path, invocation.overrides)
        require_files(loaded)
        return loaded.config

    return service.serve(read(), read, until_idle=until_idle)
