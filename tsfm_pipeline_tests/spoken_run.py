"""A run of Dagster whose one step prints something, for tests of where its log lies.

What belongs here: the job, and running it. What does not: storage and logs, which the instance
names.
"""

import dagster as dg


def spoken_run(instance: dg.DagsterInstance) -> str:
    """Run a job in this process whose step `speak` prints "heard in the log"; return the run's id."""

    @dg.op
    def speak() -> None:
        print("heard in the log")

    @dg.job
    def spoken() -> None:
        speak()

    return spoken.execute_in_process(instance=instance).run_id
