"""The commands of fairlearn-bridge, put together."""

from captum_region.cli.running import new_app
from fairlearn_bridge.cli.audit import audit
from fairlearn_bridge.cli.inspect import inspect
from fairlearn_bridge.cli.mitigate import mitigate
from fairlearn_bridge.cli.predict import predict
from fairlearn_bridge.cli.report import report
from fairlearn_bridge.cli.run import demo, run
from fairlearn_bridge.cli.sweep import sweep

app = new_app(
    "fairlearn-bridge",
    "Train image classifiers without a shortcut, and see the effect.",
    demo,
    run,
    sweep,
    inspect,
    mitigate,
    predict,
    report,
)
app.add_typer(audit, name="audit")
