"""`python -m kompensate.orchestrator.cli`: the command where its script is not on the path."""

from kompensate.orchestrator.cli import main

main(prog_name="kompensate")
