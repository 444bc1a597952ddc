"""The examples with which each command's help ends. `tests/test_help.py` runs every line of them in a shell."""

from __future__ import annotations

import argparse
from typing import Final

EXAMPLES: Final = {
    "track": """
  durable-tracker track --endpoint https://collector.example.com --schema iglu:com.acme/sale/jsonschema/1-0-0
  durable-tracker track --endpoint https://collector.example.com --no-drain < events.ndjson
""",
    "drain": """
  durable-tracker drain                                     # what no live process owns
  durable-tracker drain --name shop --timeout 600 --quiet   # one queue, for ten minutes at most
  durable-tracker drain --to https://collector.example.com --json
""",
    "status": """
  durable-tracker status                         # the queues of the default queue dir
  durable-tracker status --json                  # one JSON object, for programs
  durable-tracker status --watch 5               # every five seconds, with events a second
  durable-tracker status --check --max-age 600   # one line and an exit code for a monitor
""",
    "demo": """
  durable-tracker demo
""",
    "selftest": """
  durable-tracker selftest
  durable-tracker selftest --kills 2 --json
""",
    "peek": """
  durable-tracker peek --limit 5
  durable-tracker peek --newest --schema iglu:com.acme/ --app-id web
""",
    "dead-letters": """
  durable-tracker dead-letters --by reason
  durable-tracker dead-letters --status 422 --limit 10
""",
    "requeue": """
  durable-tracker requeue --status 422 --dry-run
  durable-tracker requeue --reason "schema not found"
""",
    "purge": """
  durable-tracker purge --pending --app-id web --dry-run
  durable-tracker purge --dead-letters --status 400 --export purged.ndjson --yes
""",
    "why": """
  durable-tracker why --name shop
  durable-tracker why --json
""",
    "pause": """
  durable-tracker pause
""",
    "resume": """
  durable-tracker resume
""",
    "flush": """
  durable-tracker flush --timeout 30
""",
    "hand-over": """
  durable-tracker hand-over --name shop
""",
    "probe": """
  durable-tracker probe --name shop
  durable-tracker probe --empty --header 'Authorization: Basic c2hvcDo='
""",
    "export": """
  durable-tracker export --output backlog.ndjson.gz
  durable-tracker export --schema iglu:com.acme/ --since 2026-11-25 | wc -l
""",
    "import": """
  durable-tracker import --endpoint https://collector.example.com backlog.ndjson.gz
  durable-tracker import --endpoint https://collector.example.com --skip-known < backlog.ndjson
""",
    "verify": """
  durable-tracker verify
  durable-tracker verify --name shop --json
""",
    "salvage": """
  durable-tracker salvage --name shop
""",
    "completion": """
  source <(durable-tracker completion bash)   # in this shell
  durable-tracker completion bash > ~/.local/share/bash-completion/completions/durable-tracker
  durable-tracker completion zsh > ~/.zfunc/_durable-tracker
  durable-tracker completion fish > ~/.config/fish/completions/durable-tracker.fish
""",
}  # fmt: skip
"""By command. The collector's are its own: it knows no command."""


def end_with_examples(parser: argparse.ArgumentParser, command: str) -> None:
    """Let a command's help end with its examples, as they stand here; a command that has none keeps its help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if command in EXAMPLES:
        parser.epilog = f"{parser.epilog}\n\nexamples:{EXAMPLES[command]}"
