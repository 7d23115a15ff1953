"""`netc data`: fetch a public data set and verify it, or list what there is."""

from pathlib import Path

import click


@click.command("data", epilog="\b\nExamples:\n  netc data list\n  netc data mnist --to data")
@click.argument("name", metavar="list | NAME")
@click.option("--to", default="data", show_default=True, metavar="DIR",
              type=click.Path(file_okay=False, path_type=Path), help="The set is put into DIR/NAME.")
def command(name: str, to: Path) -> None:
    """Fetch the data set NAME (mnist, fashion-mnist), verified by MD5, or `list` what there is."""
    from rich.console import Console
    from runtime.data.fetch import DATA_SETS, fetch

    if name == "list":
        for data_set in DATA_SETS.values():
            click.echo(f"{data_set.name:15} {data_set.about}; from {data_set.origin}")
        return
    with _progress(Console(stderr=True)) as report:
        folder = fetch(name, to, report)
    click.echo(f"{folder}: {', '.join(sorted(DATA_SETS[name].files))}")
    click.echo("in a data section, with the path as seen from the .net file:\n"
               f'  source = [train = "idx:{folder}/train", test = "idx:{folder}/t10k"]\n'
               "  split  = [train = 90%, validate = 10%]")


def _progress(console):
    """A context that yields report(doing, done, total), shown as one bar a file."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    @contextmanager
    def show():
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            tasks = {}

            def report(doing: str, done: int, total: int) -> None:
                if doing not in tasks:
                    tasks[doing] = progress.add_task(doing, total=total or None)
                progress.update(tasks[doing], completed=done)

            yield report

    return show()
