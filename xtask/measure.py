"""Runs a command; prints its seconds and the most memory that it had, in KB.

    measure.py COMMAND…
    measure.py hdiffpatch OLD NEW PATCH    HDiffPatch with LZMA, through its Python package
"""

import resource
import subprocess
import sys
import time

if sys.argv[1] == "hdiffpatch":
    start = time.monotonic()
    import hdiffpatch

    old, new, patch = sys.argv[2:]
    made = hdiffpatch.diff(
        open(old, "rb").read(),
        open(new, "rb").read(),
        hdiffpatch.LzmaConfig(level=9),
        validate=False,
    )
    open(patch, "wb").write(made)
    who = resource.RUSAGE_SELF
else:
    start = time.monotonic()
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
    who = resource.RUSAGE_CHILDREN
print(f"{time.monotonic() - start:.3f} {resource.getrusage(who).ru_maxrss}")
