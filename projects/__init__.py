"""The capstones. Each is a package of the same layout; none imports another."""

from common.io.signals import handle_signals_of_command

handle_signals_of_command()
