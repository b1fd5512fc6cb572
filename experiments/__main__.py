"""ablora compares LoRA variants in a statistically sound way. One command for all of it.

Each command is a module that runs by itself too: `ablora plan` is `python -m experiments.sweep plan`. Its
module is named by a text and imported when it is needed, so that help and mistakes are answered at once.
"""

import runpy
import sys
from collections.abc import Sequence

from experiments.errors import did_you_mean

# By name: the module, the words before those given, and what it does.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "run": ("run", (), "train one run or a sweep: ablora run variant=dora,lora r=4,8,16 study=demo"),
    "plan": ("experiments.sweep", ("plan",), "what such a command would run, cost and show; starts nothing"),
    "status": ("experiments.sweep", ("status",), "how a study is going"),
    "watch": ("experiments.sweep", ("watch",), "the same until all runs have ended"),
    "cancel": ("experiments.sweep", ("cancel",), "end runs, queued or under way; their state is kept"),
    "retry": ("experiments.sweep", ("retry",), "run again what failed or was lost"),
    "sync": ("experiments.sweep", ("sync",), "bring Weights & Biases up to the run folders"),
    "publish": ("experiments.sweep", ("publish",), "show a study's report in Weights & Biases"),
    "report": ("analysis.report", (), "the report on a study: ablora report runs/demo"),
    "audit": ("analysis.audit", (), "what a reviewer would ask of a study"),
    "export": ("experiments.export", (), "a finished run for PEFT, merged, or as a weight update"),
    "predict": ("experiments.predict", (), "answers of finished runs on new texts"),
    "lm-eval": ("experiments.lm_eval", (), "tasks of lm-evaluation-harness, answered by a study's runs"),
    "bench": ("experiments.bench", (), "measure speed and memory on this machine"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand a command to its module; the exit code, 2 for a command that there is not."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(page())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        print(_unknown(name, words), file=sys.stderr)
        return 2
    module, before, _ = COMMANDS[name]
    if module == "run":
        from experiments.config.groups import CONF
        from experiments.config.launch import main as run

        run(rest, CONF)
        return 0
    sys.argv = [f"ablora {name}", *before, *rest]
    runpy.run_module(module, run_name="__main__")
    return 0


def page() -> str:
    """What `ablora --help` shows."""
    lines = [f"  {name:9} {what}" for name, (_, _, what) in COMMANDS.items()]
    about = (__doc__ or "").split("\n")[0]
    return "\n".join(
        ["usage: ablora COMMAND ...", "", about, "", *lines, "", "`ablora COMMAND --help` explains one."]
    )


def _unknown(name: str, words: Sequence[str]) -> str:
    if "=" in name:
        return f"{name} is a word of the command run: ablora run {' '.join(words)}"
    return f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} Known: {', '.join(COMMANDS)}."


if __name__ == "__main__":
    sys.exit(main())
