"""Ask a running service for one forecast: `python docs/examples/client.py`.

What belongs here: the client that docs/serving.md shows. What does not: what only a test needs.
"""

import math
import os
from datetime import UTC, datetime

import httpx

headers = {"Authorization": f"Bearer {os.environ.get('TSFM_SERVING_TOKEN', 'none')}"}
y = [0.4 + 0.2 * math.sin(i / 20) for i in range(288)]  # the last day, every five minutes
request = {"market_id": "web-7/cpu_util", "as_of_ts": datetime.now(UTC).isoformat(), "y": y}
url = os.environ.get("TSFM_SERVING_URL", "http://127.0.0.1:8000") + "/tsfm/forecast"
answer = httpx.post(url, json=request, headers=headers).raise_for_status().json()
print(answer["yhat_q"]["0.5"], answer["intervals"]["0.8"], answer["meta"]["model"])
