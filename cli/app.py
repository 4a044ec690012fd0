"""The `ssabench` command: global options and the list of commands."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from cli import (
    capture,
    check,
    compare,
    dataset,
    encode,
    evaluate,
    history,
    info,
    prepare,
    profile,
    reconstruct,
    report,
    reproduce,
    roundtrip,
    selftest,
    similarity,
    speed,
    train,
    tune,
)
from cli.errors import ErrorGroup

app = typer.Typer(
    name="ssabench",
    cls=ErrorGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check or comparison failed, 2 bad input, 3 a fault of ssabench.",
)
app.command("info")(info.info)
app.command("check")(check.check)
app.command("speed")(speed.speed)
app.command("capture")(capture.capture)
app.command("profile")(profile.profile)
app.command("tune")(tune.tune)
app.add_typer(reproduce.app, name="reproduce")
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("calibrate")(compare.calibrate)
app.add_typer(history.app, name="history")
app.command("prepare")(prepare.prepare)
app.add_typer(dataset.app, name="dataset")
app.add_typer(train.app, name="train")
app.command("encode")(encode.encode)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("similarity")(similarity.similarity)
app.command("selftest")(selftest.selftest)
app.command("evaluate")(evaluate.evaluate)
app.command("roundtrip")(roundtrip.roundtrip)


def _print_version(wanted: bool) -> None:
    if wanted:
        from bench.version import version

        print(f"ssabench {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure Spatial Sparse Attention: kernels proven against an exact oracle, timed against the alternatives.

    \b
    What can run on this machine        ssabench info
    Are the kernels right here          ssabench check
    How fast are they                   ssabench speed --tokens 8K,32K
    Where does the time go              ssabench profile slc --tokens 32K --pass bwd
    On inputs of a trained model        ssabench capture --out deer.safetensors
    Tile sizes for this GPU             ssabench tune
    How did speed change over commits   ssabench history show
    The paper's run-time figure         ssabench reproduce speed --out out
    Did my change make them slower      ssabench compare --base main
    Meshes to training data             ssabench prepare meshes/ out/meshes
    What is in it                       ssabench dataset stats out/meshes
    A field to latents and back         ssabench train vae models/vae/configs/small.toml --out runs/vae
    How good are these meshes           ssabench evaluate MESHES REFERENCES --protocol direct3d-s2 --out out
    What a resolution can hold          ssabench roundtrip chair.obj --resolution 256 --out out
    """
    require_own_kernels()


def require_own_kernels() -> None:
    """Stop if `import kernels` would load another distribution's package of that name.

    Raises:
        ValueError: naming both places.
    """
    ours = Path(__file__).resolve().parent.parent
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != ours:
        found = "nowhere" if spec is None else spec.origin or "a folder without __init__.py"
        raise ValueError(
            f"`import kernels` must find ssabench's own package in {ours}, but finds {found}; "
            "uninstall the other distribution or use a fresh environment"
        )


def main() -> None:
    app()
