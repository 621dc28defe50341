"""``python -m jobkit.cli`` is the command ``jobkit``."""

from jobkit.cli.main import app

app(prog_name="jobkit")
