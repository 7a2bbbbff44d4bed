"""Ask a running service for one forecast, and fail if a baseline or nobody answers.

`python deploy/smoke_test.py [URL]`; the token is in TSFM_SERVING_TOKEN. It uses the standard
library only, so that it runs inside of the image and anywhere else.

What belongs here: one request. What does not: tests of what is answered.
"""

import json
import math
import os
import sys
import time
import urllib.error
import urllib.request

WAIT_S = 120


def main(url: str) -> None:
    """Wait until the service is ready, then forecast one series."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=3).close()
            break
        except (urllib.error.URLError, TimeoutError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{url} was not ready within {WAIT_S} s: {error}")
            time.sleep(1)
    y = [round(0.5 + 0.2 * math.sin(i / 20), 4) for i in range(288)]
    body = {"market_id": "smoke-test", "as_of_ts": "2026-01-01T00:00:00Z", "y": y}
    headers = {
        "Authorization": f"Bearer {os.environ['TSFM_SERVING_TOKEN']}",
        "Content-Type": "application/json",
    }
    request = urllib.request.Request(
        f"{url}/tsfm/forecast", json.dumps(body).encode(), headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        meta = json.load(response)["meta"]
    if meta["fallback_used"]:
        sys.exit(f"a baseline answered: {meta['fallback_reason']}")
    print(f"{meta['model']} {meta['version']} answered in {meta['latency_ms']:.0f} ms")


if __name__ == "__main__":
    port = os.environ.get("PORT", "8000")
    main(sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{port}")
