import os

# A listing must not run this.
if "IMPORTED_MARKER" in os.environ:
    open(os.environ["IMPORTED_MARKER"], "w").close()
