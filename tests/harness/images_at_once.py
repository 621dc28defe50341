"""Processes images in threads of one process, and prints the memory that they took.

    python images_at_once.py FOLDER MEMORY_MB THREADS FORMAT SOURCE…

Each source is processed by one job, all of them at a time in so many threads. The output is one JSON object: the
resident MiB of the process before the first job, and at its most.
"""

import json
import re
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from images_service.adapters import open_resources
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import Convert, ProcessImage
from jobkit.errors import Snooze


def resident(figure: str) -> float:
    """Return MiB: ``VmRSS`` of this moment, ``VmHWM`` at the most so far. Other systems tell the latter alone."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = re.search(rf"^{figure}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def main(folder: str, memory_mb: str, threads: str, form: Any, *sources: str) -> None:
    settings = ImagesSettings(storage_url=folder, memory_mb=int(memory_mb), max_bytes=1 << 30)
    with open_resources(settings) as resources, ThreadPoolExecutor(int(threads)) as pool:

        def run(source: str) -> None:
            job = ProcessImage(source=source, operations=[Convert(format=form)])
            while True:
                try:
                    process_image(
                        job,
                        resources.storage,
                        max_pixels=resources.max_pixels,
                        progress=lambda *_, **__: None,
                        memory=resources.memory,
                    )
                except Snooze:
                    continue  # as the queue does
                return

        before = resident("VmRSS")
        list(pool.map(run, sources))
        print(json.dumps({"before": before, "most": resident("VmHWM")}))  # noqa: T201  the result of the script


if __name__ == "__main__":
    main(*sys.argv[1:])
