"""`make bench`: the measurements behind the README's table, one after the other. `make bench ARGS="capture record"`
runs some of them. What needs a GPU is under benchmarks/gpu and is run by name."""

import subprocess
import sys

ALL = {
    "app_overhead": "what the app costs a training",
    "pretrain_quality": "losses of the trainer and of the default preset",
    "resume_cost": "what keeping a resume state costs",
    "record": "cost of recording and polling",
    "concurrency": "four recording processes, one page",
    "scale": "5,000 runs and 20 M rows",
    "console_pace": "what hard questions in SQL cost a training",
    "forecast": "how soon a memory forecast is there, and what it costs a run",
    "memory": "what the allocator handed out, beside forecasts of ours and of others",
    "capture": "looking inside a model, against TransformerLens",
    "finetune_step": "a step of fine-tuning, against TRL's trainer",
    "attention_page": "all heads of a real model in a browser",
    "induction": "induction heads found again",
}


def main() -> None:
    wanted = sys.argv[1:] or list(ALL)
    unknown = [name for name in wanted if name not in ALL]
    if unknown:
        listed = "\n".join(f"  {name:18} {what}" for name, what in ALL.items())
        raise SystemExit(f"There is no benchmark {unknown[0]!r}; there are\n{listed}")
    for name in wanted:
        print(f"== {name}: {ALL[name]}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
