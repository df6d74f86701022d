"""Jobs that end in every way."""
import json
import multiprocessing
import os
import signal
import sys
import threading
import time

from lorchestra.stack_clients.event_client import emit, log_event


def numbered(bq_client, count, acknowledged, stay=None):
    """Emits numbers, and writes each down after `emit` has returned."""
    with open(acknowledged, "w", buffering=1) as file:
        for number in range(count):
            if number == stay:
                with open(acknowledged + ".pid", "w") as pid:
                    pid.write("%d\n" % os.getpid())
                time.sleep(1000)
            emit("number", {"n": number}, "numbers", bq_client)
            file.write("%d\n" % number)


def fails_once(bq_client, marker):
    emit(event_type="tried", payload={}, source="x", bq_client=bq_client)
    if not os.path.exists(marker):
        open(marker, "w").close()
        raise ConnectionError("the network is down")


def waits(bq_client, marker):
    try:
        open(marker, "w").close()
        while True:
            emit("tick", {}, "x", bq_client)
    finally:
        emit("cleaned.up", {}, "x", bq_client)


def ends(bq_client, how):
    if how == "exit-0":
        sys.exit(0)
    if how == "exit-3":
        sys.exit(3)
    if how == "exit-text":
        sys.exit("no luck for anna@example.com")
    if how == "_exit":
        os._exit(0)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "invalid":
        emit("x", {"at": object()}, "x", bq_client)
    if how == "reserved":
        emit("job.completed", {}, "x", bq_client)
    if how == "typo":
        emit("x", payloat={}, bq_client=bq_client)
    if how == "upsert":
        from lorchestra.stack_clients.event_client import upsert_objects
    if how == "query":
        bq_client.query("SELECT 1")


async def later(bq_client):
    emit("never", {}, "x", bq_client)


def crowd(bq_client):
    """Threads, one of which outlives the function, and forked processes."""

    def rows(who):
        for number in range(200):
            emit("row", {"who": who, "number": number}, "crowd", bq_client)

    processes = [multiprocessing.get_context("fork").Process(target=rows, args=("process %d" % n,)) for n in range(2)]
    threads = [threading.Thread(target=rows, args=("thread %d" % n,)) for n in range(3)]
    for each in [*threads, *processes]:
        each.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    threading.Thread(target=lambda: (time.sleep(0.3), emit("late", {}, "crowd", bq_client))).start()


def spawned_rows(who):
    for number in range(200):
        emit("row", {"who": who, "number": number}, "crowd")
    try:
        emit("row", {"at": object()}, "crowd")
    except ValueError:
        emit("refused", {"who": who}, "crowd")


def spawned_twice(who):
    spawned_rows(who)
    inner = multiprocessing.get_context("spawn").Process(target=spawned_rows, args=(who + "/inner",))
    inner.start()
    inner.join()
    assert inner.exitcode == 0


def crowd_of_spawned(bq_client):
    """Processes that are a Python of their own."""
    processes = [
        multiprocessing.get_context(method).Process(target=target, args=(method,))
        for method, target in [("spawn", spawned_twice), ("forkserver", spawned_rows), ("fork", spawned_rows)]
    ]
    for process in processes:
        process.start()
    spawned_rows("self")
    for process in processes:
        process.join()
        assert process.exitcode == 0


def upserts(bq_client):
    """As the old tool's jobs store objects."""
    from lorchestra.stack_clients.event_client import UpsertResult, upsert_objects

    result = upsert_objects(
        objects=[{"id": 1}, {"id": 2}], source_system="gmail", connection_name="acct1", object_type="email",
        correlation_id="run-1", idem_key_fn=lambda thing: "gmail:%d" % thing["id"], bq_client=bq_client,
    )
    assert isinstance(result, UpsertResult) and result.inserted == 2


def rows(bq_client, table):
    row = {"event_id": "e-1", "event_type": "mail.received", "source": "tap", "payload": json.dumps({"n": 1}), "status": "ok"}
    faults = bq_client.insert_rows_json(table, [row, {"event_type": "bad", "payload": "[]"}])
    log_event(
        event_type="ingestion.completed", source_system="tap", correlation_id="gmail-1", status="ok", payload={"n": len(faults)},
        bq_client=bq_client,
    )


def prints(bq_client):
    print("out")
    sys.stdout.buffer.write(b"\xff\xfe raw\n")
    sys.stdout.flush()
    print("err", file=sys.stderr)
    assert sys.stdin.read() == "" and "" not in sys.path


def stubborn(bq_client, marker):
    """Emits large events, and ignores every exception."""
    while True:
        try:
            emit("tick", {"text": "x" * 500_000}, "x", bq_client)
            open(marker, "w").close()
        except Exception:
            open(marker + ".refused", "w").close()
        except BaseException:
            pass
