"""The command line, one module per group of commands.

Each command reads its arguments, calls one or two methods of `gateway/client/` and shows what came back: a table for people,
JSON with `--json` for programs. Nothing here decides. Exit codes: 0 done, 1 the gateway refused, 2 wrong usage, 3 no reply.
Client, tables and the gateway itself are imported by the command that needs them, so that `headgate --help` is quick.
"""
