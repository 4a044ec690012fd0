"""Exit codes, and how an exception becomes one line on standard error.

0 done; 1 a check or gate failed; 2 bad input; 3 a fault of ours; 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from bench.records import Record

CHECK_FAILED, BAD_INPUT, FAULT, INTERRUPTED = 1, 2, 3, 130


def exit_on_failures(records: list[Record]) -> None:
    """Exit with 1 if a provider failed its check or raised; what cannot run here or needs more memory is no failure."""
    failed = sorted({record.provider for record in records if record.status in ("failed_check", "error")})
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(CHECK_FAILED)


class ErrorGroup(TyperGroup):
    """The root command group: turns an exception of any command into one line and an exit code, unless `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Exit, Abort and usage errors are Typer's to report; the last have no public base class but an exit code.
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code") or ctx.params.get("debug"):
                raise
            if _is_bad_input(error):
                print(f"error: {error}", file=sys.stderr)
                raise typer.Exit(BAD_INPUT) from None
            detail = (str(error).strip() or "no message").splitlines()[0]
            print(f"internal error: {type(error).__name__}: {detail} (ssabench --debug shows where)", file=sys.stderr)
            raise typer.Exit(FAULT) from None


def _is_bad_input(error: Exception) -> bool:
    from bench.records import RecordFileError

    return isinstance(error, ValueError | OSError | RecordFileError)
