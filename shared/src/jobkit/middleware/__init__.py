"""One concern, one class, one file; each an ordinary Dramatiq middleware."""
