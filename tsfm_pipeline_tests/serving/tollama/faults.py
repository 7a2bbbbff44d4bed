"""A runner for tollama whose faults are chosen by the options of a request.

Standard library only, so that a real daemon can start it:
`"runner_commands": {"faults": ["python", "-u", "faults.py"]}`. The double of the daemon calls
`forecast` directly. Options: sleep s, crash, error CODE, short STEPS, cross, drop KEY, reverse,
lose, repeat, nan.
"""

import json
import os
import sys
import time
from typing import Any

EXIT_CODE = 3


class RunnerError(Exception):
    """An error that a runner answers with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def forecast(params: dict[str, Any]) -> dict[str, Any]:
    """Return the last value with a spread that grows with the step, and with the faults asked for."""
    options = params.get("options", {})
    if "error" in options:
        raise RunnerError(options["error"], "told to fail")
    steps = options.get("short", params["horizon"])
    answers = [_one(series, params.get("quantiles", []), steps) for series in params["series"]]
    for answer in answers:
        columns = answer["quantiles"]
        if options.get("cross"):
            answer["quantiles"] = dict(zip(columns, reversed(columns.values()), strict=True))
        if options.get("nan"):
            columns["0.5"][0] = float("nan")
        columns.pop(options.get("drop"), None)
    if options.get("reverse"):
        answers.reverse()
    if options.get("lose"):
        answers.pop()
    if options.get("repeat"):
        answers.append(answers[0])
    return {"model": params["model"], "forecasts": answers, "usage": {"runner": "faults"}}


def _one(series: dict[str, Any], levels: list[float], steps: int) -> dict[str, Any]:
    last = series["target"][-1]
    spread = [0.01 * (step + 1) ** 0.5 for step in range(steps)]
    return {
        "id": series["id"],
        "freq": series["freq"],
        "start_timestamp": series["timestamps"][-1],
        "mean": [last] * steps,
        "quantiles": {
            format(level, "g"): [last + (level - 0.5) * width for width in spread]
            for level in levels
        },
    }


def main() -> None:
    """Answer one request per line until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        params = request.get("params", {})
        options = params.get("options", {})
        time.sleep(options.get("sleep", 0))
        if options.get("crash"):
            os._exit(EXIT_CODE)
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = forecast(params) if request["method"] == "forecast" else {"ok": True}
        except RunnerError as error:
            answer["error"] = {"code": error.code, "message": error.message}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
