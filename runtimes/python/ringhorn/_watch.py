"""`--reload`: tells the server when a file changes that the application consists of.

A thread of the worker looks once a second at every file that is imported by then, at the other
Python files beside those under the working directory (a module that the last release failed to
import is among them), and at what `--reload-extra-file` names. For development: it costs a system
call a file and second.

Invariants: the first look only notes what there is. A file that appears beside watched ones is a
change; one that is imported, or comes with a folder that is watched from now on, is none. One
change is told once; a change while a reload is under way is told like any other. It never raises
into the application.
"""

import glob
import os
import sys
import threading
import time

# Seconds between two looks; by taste: shorter than switching to a browser.
STEP = 1.0


def start(changed, globs):
    """Watches from a thread; `changed(path)` is called for a change."""
    watch = Watch(changed, globs)
    threading.Thread(target=watch.run, name="ringhorn-watch", daemon=True).start()


class Watch:
    """What was seen of each file: its time of change and size, None when it is gone."""

    def __init__(self, changed, globs):
        self.changed = changed
        self.globs = list(globs)
        self.seen = {}
        self.folders = set()
        self.look()

    def run(self):
        while True:
            time.sleep(STEP)
            path = self.look()
            if path is not None and not self.tell(path):
                return

    def look(self):
        """A file that changed since the last look, or None. All changes count as seen."""
        imported = imported_files()
        here = os.getcwd() + os.sep
        folders = {os.path.dirname(path) for path in imported if path.startswith(here)}
        files = imported | self.files_in(folders)
        found = None
        for path in files | set(self.seen):
            now = state(path)
            if path in self.seen:
                is_changed = now != self.seen[path]
            else:
                # Imported since, or in a folder that was not watched: nothing that is new.
                is_new = path not in imported and os.path.dirname(path) in self.folders
                is_changed = is_new and now is not None
            if is_changed:
                found = path
            self.seen[path] = now
        self.folders = folders
        return found

    def files_in(self, folders):
        patterns = [os.path.join(glob.escape(folder), "*.py") for folder in folders]
        found = set()
        for pattern in patterns + self.globs:
            matches = glob.glob(pattern, recursive=True)
            found.update(path for path in matches if os.path.isfile(path))
        return found

    def tell(self, path):
        try:
            self.changed(path)
        except OSError:  # the server is gone, and so are we soon
            return False
        return True


def imported_files():
    found = set()
    for module in list(sys.modules.values()):
        # Modules may be anything, objects with a __getattr__ of their own included.
        path = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(path, str):
            found.add(os.path.abspath(path))
    return found


def state(path):
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
