"""A program that searches texts for regular expressions, apart from its caller and with limits.

Reads one JSON object from stdin, {"patterns", "texts", "whole"}, and writes a mark for each text as soon as it is
known: 1 found, 0 not found, ? where memory does not suffice. A text that takes too long ends it.
`rlhf.verifiers.patterns` starts it.
"""

import json
import re
import resource
import signal
import sys

CPU_SECONDS = 1.0
"""For one text."""
MEMORY = 2**30


def main() -> None:
    """Take the limits on and search."""
    order = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends it, whatever `re` is at
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    patterns = [re.compile(pattern, re.DOTALL) for pattern in order["patterns"]]
    for text in order["texts"]:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            hits = (pattern.fullmatch(text) if order["whole"] else pattern.search(text) for pattern in patterns)
            mark = "1" if any(hits) else "0"
        except MemoryError:
            mark = "?"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(mark, end="", flush=True)


if __name__ == "__main__":
    main()
