"""Sends the events of bench-parts with Google's own client, as the Python tool would in batches: insert_rows.py REST TABLE ROWS.

Prints rows, seconds and seconds of processor between having the rows and the last answer, as bench-send does.
"""

import json
import sys
import time

from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

PACKAGE, JOB = "pkg-0000", "extract_mail"
BEGIN = 1_767_225_600_000_000
MASK = (1 << 64) - 1


def identity(n):
    return f"019b7a3c-{n >> 16 & 0xFFFF:04x}-7000-8000-{n:012x}"


def payload(n):
    """The text that events.rs makes of the same number."""
    seed = n * 0x9E3779B97F4A7C15 & MASK
    turned = (seed << 21 | seed >> 43) & MASK
    return (
        f'{{"message":"<{n:012}@mail.example.com>","thread":{1_000_000_000 + n // 4},"folder":"archive/2026","labels":["inbox","unread"],'
        f'"bytes":{100_000 + (seed >> 48)},"attachments":[],"is_reply":{"false" if n % 2 == 0 else " true"},'
        f'"digest":"{seed:016x}{turned >> 40:06x}"}}'
    )


def stamp(micros):
    seconds, fraction = divmod(micros, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:06}Z"


def row(n, run_id):
    return {
        "event_id": identity(n),
        "event_type": "email.extracted",
        "source": f"{PACKAGE}/{JOB}",
        "schema_ref": "email/1",
        "created_at": stamp(BEGIN + n * 1000),
        "correlation_id": run_id,
        "subject_id": f"person-{n % 1000:03}@example.com",
        "payload": payload(n),
        "run_id": run_id,
        "attempt": 1,
        "package": PACKAGE,
        "job": JOB,
    }


def main():
    rest, table, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = ClientOptions(api_endpoint=rest)
    client = bigquery.Client(project=table.split(".")[0], credentials=AnonymousCredentials(), client_options=options)
    run_id = identity(0xFFFF_FFFF)
    rows = [row(n, run_id) for n in range(count)]
    send(client, table, [row(n, run_id) for n in range(1 << 32, (1 << 32) + 500)])
    start, used = time.perf_counter(), time.process_time()
    for first in range(0, count, 500):
        send(client, table, rows[first : first + 500])
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    print(json.dumps({"rows": count, "seconds": seconds, "cpu_seconds": cpu}))


def send(client, table, rows):
    errors = client.insert_rows_json(table, rows, row_ids=[row["event_id"] for row in rows])
    if errors:
        sys.exit(f"refused: {errors[:1]}")


main()
