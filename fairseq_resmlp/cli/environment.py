"""The command that describes the installation."""

import click


@click.command("doctor")
def doctor() -> None:
    """Describe this installation: versions, CPU, GPU, and what is missing for which extra."""
    from fairseq_resmlp.common.environment import diagnose

    found = diagnose()
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name:<{width}}  {value}")


COMMANDS = (doctor,)
