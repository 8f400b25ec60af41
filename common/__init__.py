"""What every capstone shares: the command line, the life of a run, data sources, callbacks, plots. Knows no capstone."""

from common.io.signals import handle_signals_of_command

handle_signals_of_command()
