"""``dagent serve``: the agent in the foreground."""

import click

from deliveryagent.cli.command import Invocation, command


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

    return service.serve(invocation.config(), invocation.config, until_idle=until_idle)
