"""Write a study as an array job for Slurm, one task for each run."""

import shlex
from collections.abc import Sequence

from agmax.experiments.environment import program

STOPPED_BY_USR1 = 138
"""The exit code of a program that has saved and stopped after SIGUSR1."""


def script(name: str, words: Sequence[str], numbers: Sequence[int]) -> str:
    """Return the job script that trains the runs with these numbers (counted from 1), each with the same command.

    Two minutes before its time limit a task gets SIGUSR1, saves, and is queued again; it continues where it stopped.
    """
    command = shlex.join([*program(), *words])
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Submit with sbatch. For the tables, run afterwards: {command}",
            f"#SBATCH --job-name={name}",
            f"#SBATCH --array={ranges(numbers)}",
            "#SBATCH --gpus-per-task=1",
            "#SBATCH --ntasks=1",
            "#SBATCH --cpus-per-task=8",
            "#SBATCH --time=24:00:00",
            "#SBATCH --signal=USR1@120",
            "#SBATCH --requeue",
            f"#SBATCH --output={name}-%a.log",
            "#SBATCH --open-mode=append",
            f'srun {command} --run "$SLURM_ARRAY_TASK_ID"',
            "code=$?",
            f'[ $code != {STOPPED_BY_USR1} ] || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"',
            "exit $code",
            "",
        ]
    )


def ranges(numbers: Sequence[int]) -> str:
    """Format increasing numbers as Slurm does: 1, 2, 3, 5 is `1-3,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
