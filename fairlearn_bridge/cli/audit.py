"""fairlearn-bridge audit: what codecs, distortions and pruning take from which group."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.cli import options as opt
from captum_region.cli.reading import Source, set_apart
from captum_region.cli.running import check_out, console, errors_in_one_line, print_check
from captum_region.io.files import CHECKPOINTS, remove_pictures, remove_states
from fairlearn_bridge.cli.options import sharing
from fairlearn_bridge.cli.run import Check

if TYPE_CHECKING:
    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit.run import AuditConfig, AuditRun

audit = typer.Typer(
    help="Find what codecs, distortions or pruning take from which group of faces.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# What is audited without any data: faces that are drawn in seconds.
_FACES: dict[str, Any] = {
    "target": "Smiling",
    "groups": "Dark_Skin",
    "size": 64,
    "train_size": 1600,
    "test_size": 800,
    "epochs": 6,
}
_EPOCHS = 10
# Of smaller images' files the container is most.
_SIZE = 128
_ONLY_TRAINED = ("epochs", "batch_size", "lr")

Retrain = Annotated[
    bool,
    typer.Option(
        "--retrain",
        help="Train the classifier on degraded images too, once a degradation: what that mends of the bias is "
        "recoverable, the rest unrecoverable.",
    ),
]
SaveDecoded = Annotated[
    bool, typer.Option("--save-decoded", help="Write all degraded images as PNG files into decoded/ of --out.")
]


def _of_audits(
    data: opt.Data = "faces",
    root: opt.Root = Path(),
    target: Annotated[
        str | None,
        opt.attributes(
            "Attribute to classify, of any number of classes, or attribute=value; of faces Smiling by default."
        ),
    ] = None,
    groups: Annotated[
        str | None,
        opt.attributes(
            "Attribute whose values are the groups; several with commas are combined, and a name with one is quoted. "
            "Of faces Dark_Skin by default."
        ),
    ] = None,
    out: opt.Out = Path("audit"),
    image_column: opt.ImageColumn = None,
    size: Annotated[
        int | None, typer.Option(help="Side in pixels that images are resized to; by default 128, of faces 64.")
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(help="Training images at most; by default all. Faces: 1600 by default.")
    ] = None,
    test_size: Annotated[
        int | None, typer.Option(help="Audited images at most; by default all. Faces: 800 by default.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:function of yours that returns a trained classifier: an estimator with predict_proba, a "
            "network with class_names, or a function of images with classes. By default a small CNN is trained."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the classifier; by default 10, for faces 6.")] = None,
    batch_size: Annotated[int, typer.Option(help="Batch size of the classifier.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the classifier.")] = 1e-3,
    draws: Annotated[int, typer.Option(help="Bootstrap draws for intervals, and permutations of groups for p.")] = 1000,
    cache: opt.Cache = None,
    skip_damaged: opt.SkipDamaged = False,
    seed: opt.Seed = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Images encoded at a time; by default as many as processors.")
    ] = None,
    device: opt.Device = "cpu",
    check: Check = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Name the options that every audit has."""


@audit.command()
@sharing(_of_audits)
def codecs(
    ctx: typer.Context,
    codec: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:QUALITY, or several qualities with commas; may be repeated. jpeg, webp, avif, jpeg2000 (percent "
            "of the raw size), jpegxl, heic, or pca with its number of components. A subsampling may follow, as in "
            "jpeg:5:4:4:4. Or module:name of your own. By default jpeg:5, webp:0, avif:5, jpeg2000:1 and pca:64."
        ),
    ] = None,
    bpp: Annotated[
        list[float] | None,
        typer.Option(help="Bits per pixel, for which each codec's quality is found; may be repeated."),
    ] = None,
    retrain: Retrain = False,
    save_decoded: SaveDecoded = False,
    **shared: Any,
) -> None:
    """Find what image codecs take from which group.

    A classifier is trained on originals; the audit is what it loses on decoded images, group by group. Without any
    data, synthetic faces are audited by skin tone. --out gets report.html, audit.json (what --json prints), table.csv,
    groups.csv, drift.csv, spectrum.csv, predictions.csv and plots/. If the command was stopped, run it again with
    --force: it resumes.

    Example: fairlearn-bridge audit codecs --data utkface --root DATA --target gender --groups race --codec jpeg:5,20
    """
    given = codec or (["jpeg", "webp", "avif", "jpeg2000", "pca"] if bpp else _CODECS)
    _audit(ctx, "codecs", codecs=tuple(given), bpp=tuple(bpp or ()), retrain=retrain)


_CODECS = ["jpeg:5", "webp:0", "avif:5", "jpeg2000:1", "pca:64"]
_DISTORTIONS = ["blur:0.5,1,2", "noise:0.1,0.2", "contrast:0.25,0.5", "downsampling:2,4"]


@audit.command()
@sharing(_of_audits)
def distortions(
    ctx: typer.Context,
    distortion: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:SEVERITIES with commas, as in blur:1,2,4; may be repeated. blur, noise, brightness, contrast, "
            "downsampling, jpeg or occlusion; without severities with its own. By default blur:0.5,1,2, noise:0.1,0.2, "
            "contrast:0.25,0.5 and downsampling:2,4."
        ),
    ] = None,
    retrain: Retrain = False,
    save_decoded: SaveDecoded = False,
    **shared: Any,
) -> None:
    """Find what distortions of images take from which group.

    A classifier is trained on originals; the audit is what it loses on distorted images, group by group. Files and
    defaults are those of audit codecs.

    Example: fairlearn-bridge audit distortions --distortion blur:1,2,4 --distortion noise:0.1 --out audit
    """
    _audit(ctx, "distortions", distortions=tuple(distortion or _DISTORTIONS), retrain=retrain)


@audit.command()
@sharing(_of_audits)
def pruning(
    ctx: typer.Context,
    amount: Annotated[
        list[float] | None,
        typer.Option(help="Share of the weights that become 0; may be repeated. By default 0.5, 0.7 and 0.9."),
    ] = None,
    reestimate: Annotated[
        bool,
        typer.Option("--reestimate", help="Estimate the batch statistics anew on training images after pruning."),
    ] = False,
    **shared: Any,
) -> None:
    """Find what pruning the classifier takes from which group.

    The smallest weights of the whole network become 0, without training afterwards. Files, but for spectrum.csv, and
    defaults are those of audit codecs.

    Example: fairlearn-bridge audit pruning --amount 0.5 --amount 0.9 --reestimate --out audit
    """
    _audit(ctx, "pruning", amounts=tuple(amount or (0.5, 0.7, 0.9)), reestimate=reestimate)


def _audit(ctx: typer.Context, mode: str, **chosen: Any) -> None:
    """Run, or check, the audit of a command's options."""
    from captum_region.io.files import check_place, locked, plain_name
    from captum_region.progress import stage
    from fairlearn_bridge.audit.decoded import Decoded
    from fairlearn_bridge.audit.results import FILES, FOLDERS, check_audit, write_audit
    from fairlearn_bridge.audit.run import run_audit

    given = ctx.params
    out, quiet = given["out"], given["quiet"]
    with errors_in_one_line(given["debug"], resumes=out / CHECKPOINTS):
        check_out(out, given["force"] or given["check"])
        config = _configuration(ctx, chosen)
        seconds: dict[str, float] = {}
        with stage("drawing faces" if given["data"] == "faces" else "reading images", seconds, quiet):
            train, test = _read(ctx)
        if given["check"]:
            print_check(check_audit(config, train, test, out), given["as_json"])
            return
        with locked(out):
            check_place(out, FILES, FOLDERS)
            saved = Decoded(out / "decoded", test.attributes.index) if given.get("save_decoded") else None
            run = run_audit(
                config, train, test, checkpoint_dir=out / CHECKPOINTS, on_images=saved, seconds=seconds, quiet=quiet
            )
            of_this = {plain_name(name) for name in run.found.outcomes} if saved else set()
            if (out / "audit.json").exists():  # of another audit, where --force writes over it
                for folder in {*out.glob("decoded/*/")} - {out / "decoded" / name for name in of_this}:
                    remove_pictures(folder)
            title = f"Audit of {mode}: {config.target} by {' and '.join(config.groups)}, on {given['data']}"
            write_audit(run, train, test, out, title=title)
            remove_states(out / CHECKPOINTS)
        for remark in run.remarks:
            typer.echo(f"note: {remark}", err=True)
        typer.echo(f"report: {out / 'report.html'}", err=True)
        if given["as_json"]:
            typer.echo((out / "audit.json").read_text(), nl=False)
        else:
            _print(run)


def _configuration(ctx: typer.Context, chosen: dict[str, Any]) -> AuditConfig:
    """Return the configuration that a command's options make."""
    import joblib

    from fairlearn_bridge.audit.run import AuditConfig

    given = ctx.params
    _ = Source.of(given).parts  # refuses a data set that there is not
    is_faces = given["data"] == "faces"
    for name in ("target", "groups"):
        if given[name] is None and not is_faces:
            raise ValueError(f"--{name} must be given, unless --data is faces")
    if given["model"] is not None:  # --retrain trains it as it was
        for name in _ONLY_TRAINED:
            if getattr(ctx.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT":
                raise ValueError(f"--{name.replace('_', '-')} must be left out with --model, which is trained already")
    target, groups = (_FACES[name] if given[name] is None else given[name] for name in ("target", "groups"))
    return AuditConfig(
        target=target,
        groups=tuple(next(csv.reader([groups]), ())),
        model=given["model"],
        epochs=(_FACES["epochs"] if is_faces else _EPOCHS) if given["epochs"] is None else given["epochs"],
        batch_size=given["batch_size"],
        lr=given["lr"],
        n_bootstrap=given["draws"],
        n_permutations=given["draws"],
        random_state=given["seed"],
        n_jobs=given["jobs"] or joblib.cpu_count(),
        device=given["device"],
        **chosen,
    )


def _read(ctx: typer.Context) -> tuple[AttributeImages, AttributeImages]:
    """Return the images to train on and those to audit, where persons are known of different ones."""
    from captum_region.datasets import make_faces

    given = ctx.params
    is_faces = given["data"] == "faces"
    chosen = {"size": _SIZE, "train_size": None, "test_size": None} | (_FACES if is_faces else {})
    for name in ("size", "train_size", "test_size"):
        if given[name] is not None:
            chosen[name] = given[name]
            if given[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {given[name]}")
    size, sizes = chosen["size"], [chosen["train_size"], chosen["test_size"]]
    source = Source.of(given)
    if is_faces:
        if given["image_column"] is not None:
            raise ValueError("--image-column is for --data table, got --data faces")
        seed = 2 * given["seed"]
        faces = [make_faces(n, size, random_state=seed + part) for part, n in enumerate(sizes)]
        return faces[0], faces[1]
    train, test = set_apart(*source.load(size))
    return train.subset(slice(sizes[0])), test.subset(slice(sizes[1]))


def _print(run: AuditRun) -> None:
    """Print a row for each degradation, and the drop of each group."""
    from rich.table import Column, Table

    from fairlearn_bridge.audit.words import p_value, points

    table: Any = run.table
    frame: Any = run.by_group
    groups = frame.index.unique("group")
    measures = [name for name in ("bpp", "psnr", "frechet") if name in table and table[name].notna().any()]
    headers = [*measures, "accuracy", *(f"drop: {group}" for group in groups), "bias", "corrected p"]
    shown = Table("degradation", *(Column(header, justify="right") for header in headers), box=None)
    for name, row in table.iterrows():
        cells = [f"{row[measure]:.3g}" for measure in measures] + [points(row["accuracy"])]
        cells += [points(value) for value in frame.loc[name, "drop"]]
        bias = f"{points(row['bias'])} [{points(row['bias_low'])}, {points(row['bias_high'])}]"
        shown.add_row(str(name), *cells, bias, p_value(row["p_holm"]))
    console().print(shown)
    right = 100 * (run.found.target == run.found.classes[run.found.original.predicted]).mean()
    typer.echo(
        f"accuracy on originals: {right:.1f} %; drop and bias in points; bias is the largest minus the smallest drop"
    )
