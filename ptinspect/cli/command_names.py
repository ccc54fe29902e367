"""Names of the commands, so that a command can suggest another without importing it."""

COMMAND_NAMES = ("check", "convert", "diff", "scan", "show", "stub")
