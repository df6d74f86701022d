"""Compares an index of vector-projector with an approximate one (HNSW, of usearch) over the same vectors.

Arguments: index.db, the number of queries. Queries are vectors of documents in equal distances. Prints JSON: seconds to build, milliseconds
of a search for ten (median), the share of the ten nearest that were found, megabytes of the approximate index.
"""
import json
import sqlite3
import statistics
import sys
import time

import numpy
from usearch.index import Index, MetricKind, ScalarKind

TEN = 10
path, queries = sys.argv[1], int(sys.argv[2])
rows = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("SELECT vector FROM vectors ORDER BY document")
vectors = numpy.frombuffer(b"".join(row[0] for row in rows), dtype=numpy.int8)
count = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("SELECT count(*) FROM vectors").fetchone()[0]
vectors = vectors.reshape(count, -1)

index = Index(ndim=vectors.shape[1], metric=MetricKind.Cos, dtype=ScalarKind.I8)
start = time.perf_counter()
index.add(numpy.arange(count), vectors)
build = time.perf_counter() - start

lengths = numpy.linalg.norm(vectors.astype(numpy.float32), axis=1)
lengths[lengths == 0] = 1
times, found = [], 0
for at in range(0, count, max(count // queries, 1)):
    start = time.perf_counter()
    keys = index.search(vectors[at], TEN).keys
    times.append(time.perf_counter() - start)
    exact = vectors.astype(numpy.float32) @ vectors[at].astype(numpy.float32) / lengths
    # Documents of the same distance are equally right.
    least = numpy.sort(exact)[-TEN] if count >= TEN else exact.min()
    found += sum(exact[int(key)] >= least * (1 - 1e-5) for key in keys)
print(json.dumps({
    "vectors": count,
    "dimensions": vectors.shape[1],
    "build_s": build,
    "search_ms": statistics.median(times) * 1e3,
    "found": found / (len(times) * min(TEN, count)),
    "megabytes": index.serialized_length / 1e6,
}))
