"""A ready batch script for Slurm: `chatlib slurm sft reward ppo --profile cluster`.

Slurm starts one launch on each node (`srun`, no ssh); each gets its place from `SLURM_NODEID`
and the hostfile that the script writes. The script carries its configurations with it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from chatlib.runs import identity
from chatlib.settings.stages import StageConfig

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
{gpus}#SBATCH --time={time}
#SBATCH --output=%x-%j.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{warning}
set -euo pipefail

# The folder of runs has to lie on a file system that all nodes share under this path.
export CHATLIB_RUNS=${{CHATLIB_RUNS:-{root}}}
PYTHON=${{PYTHON:-{python}}}
job=$CHATLIB_RUNS/slurm-$SLURM_JOB_ID
mkdir -p "$job"
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots={slots}/' > "$job/hostfile"

# Slurm warns this shell before the time limit. It hands that on to the launches, which save a
# checkpoint and end; the job then goes back into the queue and resumes.
warned= step=
warn() {{ warned=1; [ -z "$step" ] || kill -USR1 "$step" || true; }}
trap warn USR1
again() {{ scontrol requeue "$SLURM_JOB_ID"; exit 0; }}
train() {{
    [ -z "$warned" ] || again
    local code=0
    # The shell of each task puts in its own node's number.
    srun --kill-on-bad-exit=1 --cpu-bind=none \\
        bash -c 'exec "$@" --node_rank "$SLURM_NODEID"' node "$@" &
    step=$!
    wait "$step" || code=$?
    while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done  # a signal came
    step=
    [ "$code" = 0 ] || [ -z "$warned" ] || again
    return "$code"
}}
{stages}"""

WARNING = 300  # seconds before the time limit: a step and a checkpoint have to fit in

# Slurm counts the restarts of a requeued job.
STAGE = """
cat > "$job/{name}.json" <<'JSON'
{config}
JSON
train "$PYTHON" -m chatlib {stage} --config "$job/{name}.json" --hosts "$job/hostfile" \\
    {options}
"""


def script(
    configs: Sequence[StageConfig],
    nodes: int,
    gpus: bool = True,
    time: str = "24:00:00",
    resume: bool = False,
    timeout: float | None = None,
) -> str:
    """The batch script that trains `configs` one after another on `nodes` machines each.

    `time` is Slurm's limit (`D-HH:MM:SS`); without `gpus` no card is asked for. `resume`
    continues unfinished runs, which a requeued job does anyway. Five minutes before the limit the
    job saves a checkpoint and goes back into the queue. Raises `ValueError` for
    configurations of different ranks, or ranks that the nodes cannot share evenly.
    """
    ranks = {config.ranks for config in configs}
    if len(ranks) != 1 or nodes < 1 or min(ranks) % nodes:
        raise ValueError(
            f"ranks {', '.join(map(str, sorted(ranks)))} cannot be shared by nodes {nodes}; "
            "one job needs one number of ranks, and that a multiple of its nodes"
        )
    slots = min(ranks) // nodes
    return SCRIPT.format(
        name=identity.run_name(configs[-1]),
        nodes=nodes,
        gpus=f"#SBATCH --gpus-per-node={slots}\n" if gpus else "",
        time=time,
        warning=WARNING,
        root=shlex.quote(str(identity.root())),
        python=shlex.quote(sys.executable),
        slots=slots,
        stages="".join(_stage(config, resume, timeout) for config in configs),
    )


def _stage(config: StageConfig, resume: bool, timeout: float | None) -> str:
    """The lines of one stage."""
    options = "--resume" if resume else "${SLURM_RESTART_COUNT:+--resume}"
    return STAGE.format(
        name=identity.run_name(config),
        config=config.model_dump_json(indent=1, exclude_none=True, exclude={"stage"}),
        stage=config.stage,
        options=options if timeout is None else f"--timeout {timeout:g} {options}",
    )
