"""The only folder that runs the user's code and imports torch, always in a child process."""
