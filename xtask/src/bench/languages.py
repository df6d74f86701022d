"""Indexes the texts of an index of vector-projector with tokenizers of FTS5.

Arguments: index.db, a JSON list of queries, tokenizers. Prints JSON: for each tokenizer the ids of the documents that it finds for each
query; size of the texts; size of each full-text index, and of vector-projector's own.

A query is a phrase, and with unicode61 the start of a word, because words may have endings.
"""
import json
import sqlite3
import sys

path, queries, tokenizers = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
source = sqlite3.connect("file:%s?mode=ro" % path, uri=True)
rows = "SELECT document, id, people, title, body FROM documents ORDER BY document"


def size(db):
    """Bytes of the index and of the lengths of documents, without empty pages."""
    return sum(db.execute("SELECT coalesce(sum(length(%s)), 0) FROM %s" % at).fetchone()[0] for at in [("block", "words_data"), ("sz", "words_docsize")])


found, index = {}, {"ours": size(source)}
for tokenizer in tokenizers:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE words USING fts5(people, title, body, content = '', tokenize = '%s')" % tokenizer)
    ids = {}
    for n, (document, name, *texts) in enumerate(source.execute(rows)):
        ids[document] = name
        db.execute("INSERT INTO words (rowid, people, title, body) VALUES (?, ?, ?, ?)", [document, *texts])
        # As index_documents does.
        if n % 500 == 499:
            db.commit()
    db.commit()
    index[tokenizer] = size(db)
    prefix = "*" if tokenizer == "unicode61" else ""
    search = "SELECT rowid FROM words WHERE words MATCH ?"
    found[tokenizer] = [[ids[row] for row, in db.execute(search, ['"%s"%s' % (query, prefix)])] for query in queries]
characters, size_of_texts = source.execute(
    "SELECT sum(length(body)), sum(length(CAST(body AS BLOB))) FROM documents"
).fetchone()
print(json.dumps({"found": found, "index": index, "characters": characters, "bytes": size_of_texts}))
