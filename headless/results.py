"""The output folder of a run, where nothing is written twice or half."""

import json
import os
import re
from pathlib import Path

from .jobs import UsageError


class Results:
    """Images, and in `.done` a note for each that is complete."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.notes = self.folder / ".done"
        try:
            self.notes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {folder}: {error.strerror}") from error

    def note(self, job):
        return self.notes / f"{job.label}.json"

    def find(self, job):
        """The files of a job that is done, None for one that has to run."""
        try:
            note = json.loads(self.note(job).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        complete = note["fingerprint"] == job.fingerprint and all((self.folder / name).is_file() for name in note["files"])
        return note["files"] if complete else None

    def write(self, file, data):
        part = self.notes / f"{file.name}.part"
        part.write_bytes(data)
        os.replace(part, file)

    def keep(self, job, saved):
        """Write what a run saved, [(title, file name, bytes)]. Returns the names: JOB.png, or JOB_TITLE.png for several."""
        names = []
        for title, file, data in saved:
            stem, suffix = job.name, Path(file).suffix
            if len(saved) > 1:
                stem += "_" + re.sub(r"[^\w-]+", "_", title).strip("_")
            name, number = stem + suffix, 1
            while name in names:
                number += 1
                name = f"{stem}_{number}{suffix}"
            self.write(self.folder / name, data)
            names.append(name)
        note = {"fingerprint": job.fingerprint, "files": names}
        self.write(self.note(job), json.dumps(note).encode())
        return names
