"""The commands of `tsrollup`, a module each; `register(app)` adds them to the command line."""
