"""What each command of the line does, as functions that print through rich."""
