"""The `preflow` command. Nothing heavy is imported before a command needs it."""

import atexit
import errno
import gc
import signal
import sys

import typer

from flows import environment
from flows.commands import (
    again,
    compare,
    data,
    doctor,
    lineage,
    models,
    plan,
    report,
    retrain,
    run,
    schedule,
    status,
    ui,
    verify,
    worker,
)
from flows.stopping import stop_now
from flows.summary import say
from rlhf.errors import PreflowError
from rlhf.interruption import Stopped

REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a machine says that a user can mend; any other OSError is a defect of ours, whose traceback is wanted."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Preference learning as workflows: from raw data to a promoted policy, again and again.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 data refused, 4 not promoted (--require-promotion), 75 busy, "
    "85 stopped, 86 numerics, 87 a service is down.",
)
app.command(help=run.HELP)(run.run)
app.command(help=plan.HELP)(plan.plan)
app.command(help=compare.HELP)(compare.compare)
app.command(help=models.CHAT_HELP)(models.chat)
app.command(help=models.EXPORT_HELP)(models.export)
app.command(help=again.REPRODUCE_HELP)(again.reproduce)
app.command(help=again.DIFF_HELP)(again.diff)
app.command(help=verify.HELP)(verify.verify)
app.command(help=retrain.HELP)(retrain.retrain)
app.add_typer(schedule.app, name="schedule")
app.command(help=worker.HELP)(worker.worker)
app.command(help=retrain.PROMOTE_HELP)(retrain.promote)
app.command(help=retrain.ROLLBACK_HELP)(retrain.rollback)
app.add_typer(data.app, name="data")
app.command(help=lineage.LINEAGE_HELP)(lineage.lineage)
app.command(help=lineage.WITHDRAW_HELP)(lineage.withdraw)
app.command(help=lineage.PRUNE_HELP)(lineage.prune)
app.command(help=report.HELP)(report.report)
app.command(help=ui.HELP)(ui.ui)
app.command(help=doctor.HELP)(doctor.doctor)
app.command()(status.stop)
app.command()(status.status)


def main() -> None:
    """The console script: errors that a user can mend are one sentence and an exit code."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"preflow: needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}")
    environment.set_defaults()
    atexit.register(gc.freeze)  # else Python goes through all that was imported once more, which takes a second
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM as well would end Python with nothing cleared up
        signal.signal(number, stop_now)
    try:
        app()
    except (PreflowError, Stopped) as error:
        say(f"preflow: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        named = f"{error.filename}: " if error.filename else ""
        say(f"preflow: {named}{error.strerror}; mend the permissions, the mount or the full disk")
        sys.exit(PreflowError.exit_code)


if __name__ == "__main__":
    main()
