"""Writes events by Google's own clients, as lorchestra does: a dataset, a table, a stream, rows, insertAll.

conversation.py REST GRPC < {"storage": [row...], "insert_all": [row...]}
"""

import datetime
import json
import sys

import grpc
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport
from google.cloud.bigquery_storage_v1.writer import AppendRowsStream
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# The columns of docs/guides/bigquery.md, written down here so that they are not copied from what lorchestra sends.
FIELDS = [
    ("event_id", "STRING", "REQUIRED"),
    ("event_type", "STRING", "REQUIRED"),
    ("source", "STRING", "REQUIRED"),
    ("schema_ref", "STRING", "NULLABLE"),
    ("created_at", "TIMESTAMP", "REQUIRED"),
    ("correlation_id", "STRING", "NULLABLE"),
    ("subject_id", "STRING", "NULLABLE"),
    ("payload", "JSON", "NULLABLE"),
    ("run_id", "STRING", "NULLABLE"),
    ("attempt", "INTEGER", "NULLABLE"),
    ("package", "STRING", "NULLABLE"),
    ("job", "STRING", "NULLABLE"),
]

rest, write = sys.argv[1:]
request_data = json.load(sys.stdin)
project, dataset, table = "p1", "lorchestra", "events"
name = f"{project}.{dataset}.{table}"

client = bigquery.Client(project, AnonymousCredentials(), client_options=ClientOptions(api_endpoint=rest))
for missing in [lambda: client.get_table(name), lambda: client.get_dataset(f"{project}.{dataset}")]:
    try:
        missing()
        raise AssertionError("there is nothing yet")
    except NotFound:
        pass
made = bigquery.Dataset(f"{project}.{dataset}")
made.location = "EU"
client.create_dataset(made)
made = bigquery.Table(name, [bigquery.SchemaField(*field) for field in FIELDS])
made.description = "Events of lorchestra's jobs"
made.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, "created_at")
made.clustering_fields = ["event_type", "source"]
client.create_table(made)

rows = request_data["insert_all"]
assert client.insert_rows_json(name, rows, row_ids=[row["event_id"] for row in rows]) == []

# As Google's guide has it: one message of proto2, TIMESTAMP as microseconds, JSON as text.
kinds = {"STRING": 9, "JSON": 9, "INTEGER": 3, "TIMESTAMP": 3}
file = descriptor_pb2.FileDescriptorProto(name="row.proto", package="row", syntax="proto2")
message = file.message_type.add(name="Row")
for number, (field, kind, _) in enumerate(FIELDS, 1):
    message.field.add(name=field, number=number, label=1, type=kinds[kind])
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Row = message_factory.GetMessageClass(pool.FindMessageTypeByName("row.Row"))


def micros(text):
    """Microseconds since 1970."""
    at = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round((at - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) / datetime.timedelta(microseconds=1))


def encoded(event):
    """One row as bytes."""
    row = dict(event)
    row["created_at"] = micros(row["created_at"])
    return Row(**row).SerializeToString()


writer = BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=grpc.insecure_channel(write)))
parent = f"projects/{project}/datasets/{dataset}/tables/{table}"
stream = writer.create_write_stream(parent=parent, write_stream=types.WriteStream(type_=types.WriteStream.Type.COMMITTED))
template = types.AppendRowsRequest(write_stream=stream.name)
template.proto_rows.writer_schema.proto_descriptor = message
appending = AppendRowsStream(writer, template)
request = types.AppendRowsRequest(offset=0)
request.proto_rows.rows.serialized_rows = [encoded(event) for event in request_data["storage"]]
appending.send(request).result()
appending.close()
assert writer.finalize_write_stream(name=stream.name).row_count == len(request_data["storage"])
