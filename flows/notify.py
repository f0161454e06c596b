"""Tells a webhook what came of a firing. Nothing of a retrain depends on whether anybody hears it."""

import http.client
import json
import urllib.request
from collections.abc import Callable, Mapping

SECONDS = 10
"""For which the other side may think."""


def tell(url: str, news: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """POST news as JSON; what goes wrong is said, without the URL, which may hold a secret, and is no error."""
    try:
        request = urllib.request.Request(url, json.dumps(news).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS):
            return True
    except (OSError, ValueError, http.client.HTTPException) as error:
        say(f"the webhook was not told of {news['state']}: {type(error).__name__}: {getattr(error, 'reason', '')}")
        return False
