"""Calls a job of the Python lorchestra, and passes its events to the worker that started this process.

Standard input is a socket. The worker sends one order, a line of JSON. After that, each request from here is one line, and
the worker answers it with one line when the event is recorded. The last request reports how the job ended. Standard output
and standard error belong to the job.

Runs on Python 3.8 and newer, with the standard library only.
"""
import sys

# `python -c` puts the working directory first. The old tool did not, and a file json.py there would be imported.
sys.path[:] = [place for place in sys.path if place]

import ast
import fcntl
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import logging
import os
import signal
import socket
import struct
import tempfile
import threading
import traceback
from importlib.metadata import distributions

EVENT_CLIENT = "lorchestra.stack_clients.event_client"
GROUP = "lorchestra.jobs"
# Arguments of `emit` and `log_event`, and columns of the old table, that the new envelope does not have. They are stored in
# the payload, with an underscore.
MORE_FIELDS = ("object_type", "status", "error_message", "idem_key", "trace_id")
MAX_CAUSES = 8
MAX_FRAMES = 50
MAX_DOC = 4000


class InvalidEvent(ValueError):
    """lorchestra refuses the event, and would refuse it again: the payload is not an object, is too large, …"""

    __module__ = "lorchestra"


class NotCallable(Exception):
    """The entry cannot be called with these arguments. The text contains names only."""


class Channel:
    """The connection to the worker. Threads and forked processes may use it at the same time."""

    def __init__(self, connection):
        self.socket = connection
        self.reader = self.socket.makefile("rb")
        self.lock = threading.RLock()
        self.number = 0
        self.replies = {}
        # A file that forked processes lock in turn: they share the socket.
        self.turn = None
        # Whether the main thread is in the middle of a request: an exception there would leave half a line.
        self.is_busy = False
        self.stop = None
        self.is_stopped = False
        self.is_broken = False
        os.register_at_fork(
            before=self.before_fork, after_in_parent=self.lock.release, after_in_child=self.lock.release
        )

    def before_fork(self):
        self.lock.acquire()
        if self.turn is None:
            self.turn = tempfile.TemporaryFile()

    def read(self):
        line = self.reader.readline()
        if not line.endswith(b"\n"):
            self.is_broken = True
            raise ConnectionError("the lorchestra worker of this job has ended")
        return json.loads(line)

    def ask(self, request):
        """Sends a request and returns its reply."""
        with self.lock:
            if self.is_broken:
                raise ConnectionError("the connection to the lorchestra worker was interrupted")
            self.number += 1
            # With the process id: a forked process continues with the same numbers.
            number = request["id"] = "%d.%d" % (os.getpid(), self.number)
            line = json.dumps(request, separators=(",", ":"), allow_nan=False).encode() + b"\n"
            is_main = threading.current_thread() is threading.main_thread()
            was_busy, self.is_busy = self.is_busy, self.is_busy or is_main
            try:
                if self.turn is not None:
                    fcntl.lockf(self.turn, fcntl.LOCK_EX)
                try:
                    self.send(line)
                    # A signal handler of the job may have read our reply, or left one of its own.
                    while number not in self.replies:
                        reply = self.read()
                        self.replies[reply["id"]] = reply
                finally:
                    if self.turn is not None:
                        fcntl.lockf(self.turn, fcntl.LOCK_UN)
            finally:
                self.is_busy = was_busy
            reply = self.replies.pop(number)
        if is_main and self.stop is not None and not self.is_busy:
            stop, self.stop = self.stop, None
            raise stop
        return reply

    def send(self, line):
        try:
            self.socket.sendall(line)
        except OSError as error:
            self.is_broken = True
            raise ConnectionError("the lorchestra worker of this job has ended") from error
        except BaseException:
            # Interrupted by a signal handler of the job: half a line may have been sent.
            self.is_broken = True
            raise

    def record(self, event):
        """Returns when the event survives a crash."""
        try:
            reply = self.ask({"event": event})
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidEvent):
                raise
            # Its text has all of it.
            raise InvalidEvent("the event %r is not JSON: %s" % (event.get("type"), error)) from None
        if "error" in reply:
            raise (InvalidEvent if reply.get("invalid") else RuntimeError)(reply["error"])

    def end(self, how):
        """Reports how the job ended."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        self.ask({"end": how})


def standard_input():
    """The socket that is standard input, which is empty for the job. Not inherited by programs that the job starts."""
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return connection


def relay_socket():
    """The socket of the process that has spawned this one."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + RELAY)
    return connection


# Set in processes that `multiprocessing` has spawned: the address of a `Relay`.
RELAY = globals().get("LORCHESTRA_RELAY")
CHANNEL = Channel(relay_socket() if RELAY else standard_input())


def own_source():
    """The text of this file, which is an argument of this process."""
    with open("/proc/self/cmdline", "rb") as file:
        arguments = file.read().split(b"\0")
    return arguments[arguments.index(b"-c") + 1].decode()


class Relay:
    """Passes events of spawned processes to the worker. Such a process is a new Python that knows nothing of this one but its
    `sys.path`; so that has, in front, a directory with a package `lorchestra`, which loads this file there. The socket has no file, whose path could be too
    long; processes of other users are refused."""

    STUB = """import sys
sys.path.remove(%r)
del sys.modules["lorchestra"]
exec(compile(open(%r).read(), "<lorchestra>", "exec"), {"__name__": "lorchestra.bridge", "LORCHESTRA_RELAY": %r,
    "LORCHESTRA_DIRECTORY": %r})
import lorchestra
"""

    def __init__(self, directory):
        self.directory = directory
        self.is_started = bool(RELAY)
        self.lock = threading.Lock()

    def install(self):
        """Makes `multiprocessing` pass the directory to the processes that it spawns."""
        from multiprocessing import spawn

        original = spawn.get_preparation_data

        def get_preparation_data(name):
            data = original(name)
            data["sys_path"] = [self.start()] + list(data.get("sys_path", sys.path))
            return data

        spawn.get_preparation_data = get_preparation_data

    def start(self):
        with self.lock:
            if not self.is_started:
                listener = socket.socket(socket.AF_UNIX)
                # The directory's name is unique.
                address = hashlib.sha256(self.directory.encode()).hexdigest()
                listener.bind("\0" + address)
                listener.listen(64)
                source = os.path.join(self.directory, "bridge.py")
                with open(source, "w") as file:
                    file.write(own_source())
                os.mkdir(os.path.join(self.directory, "lorchestra"))
                with open(os.path.join(self.directory, "lorchestra", "__init__.py"), "w") as file:
                    file.write(self.STUB % (self.directory, source, address, self.directory))
                threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
                self.is_started = True
            return self.directory

    def accept(self, listener):
        while True:
            connection, _ = listener.accept()
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", peer)[1] != os.getuid():
                connection.close()
                continue
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    @staticmethod
    def serve(connection):
        """Answers the requests of one process, each after the worker has answered it."""
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                number = request["id"]
                try:
                    reply = CHANNEL.ask({"event": request["event"]})
                except (OSError, KeyError) as error:
                    reply = {"error": str(error)}
                connection.sendall(json.dumps(dict(reply, id=number)).encode() + b"\n")


def on_signal(number, frame):
    """Ends the job as an exception of the main thread, so that its `finally` blocks run. Not in the middle of a request."""
    if number == signal.SIGTERM:
        # A second one would interrupt the `finally` blocks. A job that continues is killed after the grace period.
        if CHANNEL.is_stopped:
            return
        CHANNEL.is_stopped = True
    stop = SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt()
    if CHANNEL.is_busy:
        CHANNEL.stop = stop
    else:
        raise stop


def emit(
    event_type, payload=None, source=None, bq_client=None, schema_ref=None, correlation_id=None, subject_id=None, *,
    data=None, **more
):
    """`emit` of the old tool, as documented (`data=`) and as implemented (`payload=`)."""
    unknown = sorted(set(more) - set(MORE_FIELDS))
    if unknown:
        raise TypeError("emit() got an unexpected keyword argument %r" % unknown[0])
    if payload is not None and data is not None:
        raise TypeError("emit() got both payload and data")
    payload = data if payload is None else payload
    payload = {} if payload is None else payload
    if not isinstance(event_type, str) or not event_type:
        raise InvalidEvent("event_type must be a non-empty string")
    if not isinstance(payload, dict):
        raise InvalidEvent("the payload of %r must be a dict, not %s" % (event_type, type(payload).__name__))
    payload = dict(payload)
    for name, value in [("source", source), *more.items()]:
        if value is not None:
            payload.setdefault("_" + name, value)
    event = {"type": event_type, "payload": payload}
    for name, value in (("schema_ref", schema_ref), ("correlation_id", correlation_id), ("subject_id", subject_id)):
        if value is not None:
            event[name] = str(value)
    CHANNEL.record(event)


def log_event(*, event_type, source_system=None, correlation_id=None, bq_client=None, payload=None, **more):
    """`log_event` of later versions of the old tool."""
    emit(event_type, payload, source_system, correlation_id=correlation_id, **more)


class Shim:
    """Imports `lorchestra.stack_clients.event_client` as the functions above, whether the old tool is installed or not."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == EVENT_CLIENT else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if module.__name__ != EVENT_CLIENT:
            return

        def others(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(old_event_client(name), name)

        module.emit, module.log_event, module.__getattr__ = emit, log_event, others


OLD_EVENT_CLIENT = []


def old_event_client(name):
    """The old tool's own module, for what is not an event: `upsert_objects` writes a table of the user, and repeats safely because
    it merges by key. The events that it emits about that go through lorchestra."""
    if not OLD_EVENT_CLIENT:
        places = importlib.import_module(EVENT_CLIENT.rpartition(".")[0]).__path__
        spec = importlib.machinery.PathFinder.find_spec(EVENT_CLIENT, places)
        if spec is None:
            raise ImportError(
                "%s.%s writes a table of its own, which is not lorchestra's; install the old tool in the virtual environment, and its"
                " %s is used" % (EVENT_CLIENT, name, name)
            )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.emit, module.log_event = emit, log_event
        OLD_EVENT_CLIENT.append(module)
    return OLD_EVENT_CLIENT[0]


class Parents(Shim):
    """Imports `lorchestra` and `lorchestra.stack_clients` as empty packages where the old tool is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name in (EVENT_CLIENT.split(".")[0], EVENT_CLIENT.rpartition(".")[0]):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None


class Client:
    """The `bq_client` of a job. Rows for the table of events become events; all else is done by a client of
    google-cloud-bigquery, which is created when it is first needed."""

    def __init__(self):
        self._client = None

    def insert_rows_json(self, table, json_rows, *args, **kwargs):
        if not is_events_table(table):
            return self._real().insert_rows_json(table, json_rows, *args, **kwargs)
        faults = []
        for index, row in enumerate(json_rows):
            try:
                emit(**envelope(row))
            except (InvalidEvent, TypeError) as error:
                faults.append({"index": index, "errors": [{"reason": "invalid", "location": "", "message": str(error)}]})
        return faults

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __reduce__(self):
        raise TypeError("bq_client cannot be sent to another process")

    def _real(self):
        if self._client is None:
            try:
                from google.cloud import bigquery
            except ImportError as error:
                raise RuntimeError(
                    "this use of bq_client needs google-cloud-bigquery in the virtual environment"
                ) from error
            self._client = bigquery.Client()
        return self._client


def is_events_table(table):
    """Whether the environment names this table as the table of events."""
    if hasattr(table, "dataset_id") and hasattr(table, "table_id"):
        found = (table.dataset_id, table.table_id)
    else:
        found = tuple(str(table).replace(":", ".").split(".")[-2:])
    dataset = os.environ.get("EVENTS_BQ_DATASET") or os.environ.get("BQ_EVENTS_DATASET")
    names = ("EVENTS_BQ_TABLE", "BQ_EVENTS_TABLE", "EVENT_LOG_TABLE")
    return bool(dataset) and found in [(dataset, os.environ[name]) for name in names if os.environ.get(name)]


def envelope(row):
    """The arguments of `emit` for a row of the old table."""
    row = dict(row)
    payload = row.pop("payload", None)
    payload = json.loads(payload) if isinstance(payload, str) else payload
    source = row.pop("source", None) or row.pop("source_system", None)
    known = ("event_type", "schema_ref", "correlation_id", "subject_id") + MORE_FIELDS
    arguments = {name: row.pop(name) for name in known if name in row}
    arguments.setdefault("event_type", "")
    if isinstance(payload, dict) or payload is None:
        payload = dict(payload or {})
        for name, value in row.items():
            payload.setdefault("_" + name, value)
    return dict(arguments, payload=payload, source=source)


def load(entry):
    module_name, _, path = entry.partition(":")
    try:
        value = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise NotCallable("there is no module %s in %s; install the package there" % (error.name, sys.prefix)) from None
        raise
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise NotCallable("module %s has no function %s" % (module_name, path)) from None
    if not callable(value):
        raise NotCallable("%s is not a function" % entry)
    return value


def run(order):
    entry, arguments = order["entry"], order["arguments"]
    function, client = load(entry), Client()
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = None
    if signature is not None:
        try:
            signature.bind(bq_client=client, **arguments)
        except TypeError as error:
            raise NotCallable("%s%s cannot be called with these arguments: %s" % (entry, signature, error)) from None
    result = function(bq_client=client, **arguments)
    if inspect.iscoroutine(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        # Nothing of it has run, and the job would look successful.
        if inspect.iscoroutine(result):
            result.close()
        raise NotCallable(
            "%s returned a %s, so none of its code has run; the function must not be async or have yield (use asyncio.run in it)"
            % (entry, type(result).__name__)
        )


def find(module_name):
    """The source of a module, without running any of its packages; `None` if it is not Python source."""
    place, spec = None, None
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        found = (f.find_spec(name, place) for f in sys.meta_path if hasattr(f, "find_spec"))
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            raise ImportError("there is no module %s" % name)
        place = spec.submodule_search_locations
    source = getattr(spec.loader, "get_source", None)
    return source(module_name) if source else None


def describe(entry):
    """Signature and docstring of a function, from its source."""
    module_name, _, path = entry.partition(":")
    source = find(module_name)
    for node in ast.parse(source).body if source else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == path:
            signature = "(%s)" % ast.unparse(node.args) if hasattr(ast, "unparse") else None
            return signature, ast.get_docstring(node)
    # It is made in another way: imported from elsewhere, wrapped.
    function = load(entry)
    try:
        return str(inspect.signature(function)), inspect.getdoc(function)
    except (TypeError, ValueError):
        return None, inspect.getdoc(function)


def found_jobs():
    """Entry points in the groups that the old tool has read and documented: package, name, entry."""
    jobs = set()
    for point in (point for distribution in distributions() for point in distribution.entry_points):
        entry = point.value.partition("[")[0].strip()
        if point.group == GROUP:
            jobs.add((entry.partition(":")[0].partition(".")[0], point.name, entry))
        elif point.group.startswith(GROUP + "."):
            jobs.add((point.group[len(GROUP) + 1 :], point.name, entry))
    return sorted(jobs)


def list_jobs(order):
    jobs, unusable, package = found_jobs(), 0, None
    for job in jobs:
        if job[0] != package:
            package = job[0]
            print("%s:" % package)
        event = {"package": package, "job": job[1], "entry": job[2]}
        try:
            signature, doc = describe(job[2])
            event.update(signature=signature, doc=doc[:MAX_DOC] if doc else None)
            print("  %s  --entry %s  %s" % (job[1], job[2], signature or ""))
            for line in (doc or "").splitlines():
                print("    %s" % line if line else "")
        except (Exception, SystemExit) as error:
            unusable += 1
            event["error"] = class_name(error)
            print("  %s  --entry %s  cannot be read: %s: %s" % (job[1], job[2], class_name(error), error))
        CHANNEL.record({"type": "python.job.listed", "payload": event})
    if not jobs:
        print("no entry points in the group %s in %s" % (GROUP, sys.prefix))
    CHANNEL.record({"type": "python.listed", "payload": {"jobs": len(jobs), "unusable": unusable, "prefix": sys.prefix}})


def class_name(error):
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)


def short(path):
    """A path without the directory of `sys.path` that it is in."""
    places = [place.rstrip("/") + "/" for place in sys.path if path.startswith(place.rstrip("/") + "/")]
    return path[len(max(places, key=len)) :] if places else path


def own_part(trace):
    """A traceback without the frames of this file."""
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace


def raised(error):
    """An exception and its causes: classes and places, without their messages, which may contain data."""
    chain = []
    while error is not None and len(chain) < MAX_CAUSES:
        frames = [
            {"file": short(frame.f_code.co_filename), "line": line, "function": frame.f_code.co_name}
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals is not globals()
        ][-MAX_FRAMES:]
        chain.append({"class": class_name(error), "frames": frames})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def is_invalid(error):
    seen = 0
    while error is not None and seen < MAX_CAUSES:
        if isinstance(error, InvalidEvent):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def wait_for_threads():
    """Python ends only after these, and they may emit."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def install_shim():
    sys.meta_path.insert(0, Shim())
    sys.meta_path.append(Parents())


def main():
    order = CHANNEL.read()
    sys.argv = ["lorchestra"]
    install_shim()
    if order.get("temporary"):
        Relay(order["temporary"]).install()
    # Messages of level INFO are shown without a configuration of the job, and one of the job replaces this.
    logging.getLogger().setLevel(logging.INFO)
    logging.lastResort.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    owner, status = os.getpid(), 0
    try:
        {"run": run, "list": list_jobs}[order["task"]](order)
        how = {}
    except NotCallable as error:
        how, status = {"not_callable": str(error)}, 1
    except SystemExit as error:
        # 0 and nothing are successes, as for any program.
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        how, status = ({"exit": code} if code else {}), code
    except BaseException as error:
        traceback.print_exception(type(error), error, own_part(error.__traceback__))
        how, status = {"raised": raised(error), "invalid": is_invalid(error)}, 1
    if os.getpid() == owner:
        wait_for_threads()
        # Only in the process that was started, not in one that the job has forked.
        CHANNEL.end(how)
    sys.exit(status)


if RELAY:
    install_shim()
    # Processes that this one spawns use the same relay.
    Relay(LORCHESTRA_DIRECTORY).install()
else:
    main()
