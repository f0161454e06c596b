"""Short questions to Prefect's API, for what must not import Prefect itself, which takes a second and 85 MB."""

import base64
import http.client
import json
import os
import urllib.request
from typing import Any

from tasks.in_time import in_time


def ask(url: str, question: dict[str, Any]) -> Any:
    """The answer to a POST, with the name and password that PREFECT_API_AUTH_STRING gives; no proxy is asked.

    Raises:
        OSError: nobody answers, or not with success; ValueError: the answer is no JSON.
    """
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
    request = urllib.request.Request(url, json.dumps(question).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer() -> Any:
        with opener.open(request, timeout=10) as given:
            return json.loads(given.read())

    try:
        return in_time(answer, 20.0, url)
    except http.client.HTTPException as error:  # what came is no HTTP, or was cut off
        raise OSError(f"{type(error).__name__}: {error}") from None
