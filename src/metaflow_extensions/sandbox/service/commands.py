"""``metaflow-sandbox service start|stop|status|url|run``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import control, runner
from . import state as states

IDLE = 300.0  # seconds, as metaflow-local-service
PORT = "METAFLOW_LOCAL_SERVICE_PORT"
IDLE_TIMEOUT = "METAFLOW_LOCAL_SERVICE_IDLE_TIMEOUT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument(
        "--metaflow-root",
        type=Path,
        metavar="DIRECTORY",
        help="what holds .metaflow; default: the nearest above that does, else the current directory",
    )
    starting = argparse.ArgumentParser(add_help=False, parents=[root])
    starting.add_argument(
        "--port", type=int, default=os.environ.get(PORT, "0"), help=f"default: any free, or ${PORT}"
    )
    starting.add_argument(
        "--idle-timeout",
        type=float,
        default=os.environ.get(IDLE_TIMEOUT, str(IDLE)),
        metavar="SECONDS",
        help=f"stop after that long without a request; default {IDLE:.0f}, or ${IDLE_TIMEOUT}",
    )
    names = parser.add_subparsers(dest="action", required=True, metavar="start|stop|status|url|run")
    names.add_parser("start", parents=[starting], help="start it in the background")
    names.add_parser("stop", parents=[root], help="end it")
    names.add_parser("status", parents=[root], help="say where it runs; exit code 1 when it does not")
    names.add_parser("url", parents=[root], help="print its URL, for scripts")
    run = names.add_parser("run", parents=[starting], help="start it if need be, and run a command with it")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")


def main(options: argparse.Namespace) -> int:
    """Return the exit code. Raises ServiceError."""
    root = (options.metaflow_root or states.find_root(Path.cwd())).resolve()
    if options.action == "start":
        state, anew = control.ensure(root, options.port, options.idle_timeout)
        say(f"{'Started' if anew else 'Already running'}: pid={state.pid}  url={state.url}")
        say(f"  METAFLOW_SERVICE_URL={state.url}\n  METAFLOW_DEFAULT_METADATA=service")
        say("  METAFLOW_SANDBOX_HEARTBEAT=light")
        return 0
    if options.action == "run":
        return run(options, root)
    if options.action == "stop":
        say("Stopped." if control.stop(root) else "No running service found.")
        return 0
    found = states.running(root)
    if found is None:
        sys.stderr.write(f"Not running for {root}.\n")
        return 1
    say(found.url if options.action == "url" else f"Running: pid={found.pid}  url={found.url}  root={root}")
    return 0


def run(options: argparse.Namespace, root: Path) -> int:
    """Run the command of ``service run``."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        sys.stderr.write("Name the command: metaflow-sandbox service run python flow.py run\n")
        return 2
    state, _ = control.ensure(root, options.port, options.idle_timeout)
    runner.say(f"metadata service at {state.url} (pid={state.pid})")
    return runner.run(command, state, options.idle_timeout)


def say(text: str) -> None:
    """A line of output."""
    sys.stdout.write(f"{text}\n")
