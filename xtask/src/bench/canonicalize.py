"""canonicalize_email in Python: what somebody would write with the standard library's email and json, for the same lines and fields.

    canonicalize.py make MBOX LINES COPIES ATTACHMENT   lines as ingester writes them, of copies of an mbox's messages; with
                                                        so many random bytes attached to each
    canonicalize.py canonicalize LINES OUT              JMAP Email objects of them
    canonicalize.py compare A B                         how many messages, and how many of them have the same value of each field

compat32 and no policy: its headers are text, and reading them is several times quicker than with the policies that came later.
"""

import base64
import email
import hashlib
import html
import json
import random
import re
import sys
from datetime import datetime, timezone
from email.header import decode_header, make_header
from email.utils import getaddresses, parsedate_to_datetime

ID = re.compile(r"<([^<>\s]+)>")
TAG = re.compile(r"<[^>]*>")
LABELS = {"Inbox": "inbox", "Trash": "trash", "Archived": "archive", "Sent": "sent", "Draft": "drafts", "Spam": "junk"}
KEYWORDS = {"Opened": "$seen", "Sent": "$seen", "Starred": "$flagged", "Important": "$important", "Draft": "$draft", "Spam": "$junk"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def text_of(message, name):
    value = message[name]
    if value is None:
        return None
    try:
        return str(make_header(decode_header(value))).replace("\n", "").strip()
    except (LookupError, UnicodeError, ValueError):
        return str(value)


def ids_of(message, name):
    value = message[name]
    return None if value is None else ID.findall(str(value))


def addresses_of(message, name):
    values = message.get_all(name)
    if values is None:
        return None
    found = []
    for label, address in getaddresses([str(values[-1])]):
        if label or address:
            try:
                label = str(make_header(decode_header(label)))
            except (LookupError, UnicodeError, ValueError):
                pass
            found.append({"name": label or None, "email": address})
    return found


def date_of(value):
    try:
        return parsedate_to_datetime(str(value)) if value else None
    except (TypeError, ValueError):
        return None


def rfc3339(date):
    text = date.isoformat()
    return text.replace("+00:00", "Z") if date.tzinfo else text + "Z"


def utc(date):
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return rfc3339(date.astimezone(timezone.utc))


def describe(part, leaves):
    kind = part.get_content_type()
    disposition = part.get_content_disposition()
    language = part["Content-Language"]
    described = {
        "partId": None,
        "blobId": None,
        "size": 0,
        "name": part.get_filename() and str(make_header(decode_header(part.get_filename()))),
        "type": kind,
        "charset": (part.get_param("charset") or "us-ascii") if kind.startswith("text/") else None,
        "disposition": disposition,
        "cid": next(iter(ids_of(part, "Content-ID") or []), None),
        "language": [word.strip() for word in language.split(",")] if language else None,
        "location": text_of(part, "Content-Location"),
    }
    if kind.startswith("multipart/") and part.is_multipart():
        described["subParts"] = [describe(child, leaves) for child in part.get_payload()]
        return described
    if part.is_multipart():
        data = part.get_payload(0).as_bytes()
    else:
        data = part.get_payload(decode=True) or b""
    leaves.append((part, data))
    described.update(partId=str(len(leaves)), blobId="b" + sha256(data), size=len(data))
    return described


def is_media(part):
    return part["type"].startswith(("image/", "audio/", "video/"))


def lists(parts, multipart, in_alternative, html_body, text_body, attachments):
    """RFC 8621, section 4.1.4."""
    text_length = -1 if text_body is None else len(text_body)
    html_length = -1 if html_body is None else len(html_body)
    for i, part in enumerate(parts):
        inline = (
            part["disposition"] != "attachment"
            and (part["type"] in ("text/plain", "text/html") or is_media(part))
            and (i == 0 or (multipart != "related" and (is_media(part) or not part["name"])))
        )
        if "subParts" in part:
            kind = part["type"].split("/")[1]
            lists(part["subParts"], kind, in_alternative or kind == "alternative", html_body, text_body, attachments)
        elif inline:
            if multipart == "alternative":
                if part["type"] == "text/plain" and text_body is not None:
                    text_body.append(part)
                elif part["type"] == "text/html" and html_body is not None:
                    html_body.append(part)
                else:
                    attachments.append(part)
                continue
            if in_alternative:
                if part["type"] == "text/plain":
                    html_body = None
                elif part["type"] == "text/html":
                    text_body = None
            if text_body is not None:
                text_body.append(part)
            if html_body is not None:
                html_body.append(part)
            if (text_body is None or html_body is None) and is_media(part):
                attachments.append(part)
        else:
            attachments.append(part)
    if multipart == "alternative" and text_body is not None and html_body is not None:
        if text_length == len(text_body) and html_length != len(html_body):
            text_body.extend(html_body[html_length:])
        if html_length == len(html_body) and text_length != len(text_body):
            html_body.extend(text_body[text_length:])


def body_value(part, data):
    charset = part.get_param("charset") or "us-ascii"
    problem = False
    try:
        value = data.decode(charset)
    except (LookupError, UnicodeError, TypeError):
        value, problem = data.decode("utf-8", "replace"), True
    return {"value": value.replace("\r\n", "\n"), "isEncodingProblem": problem, "isTruncated": False}


def canonical(record):
    raw = record["raw"].encode() if "raw" in record else base64.b64decode(record["raw_base64"])
    key = sha256(raw)
    if key != record["sha256"]:
        return None
    message = email.message_from_bytes(raw)
    leaves = []
    structure = describe(message, leaves)
    text_body, html_body, attachments = [], [], []
    lists([structure], "mixed", False, html_body, text_body, attachments)
    values = {}
    for part in text_body + html_body:
        if part["partId"] not in values and part["type"].startswith("text/"):
            values[part["partId"]] = body_value(*leaves[int(part["partId"]) - 1])
    preview = ""
    for part in text_body:
        if part["partId"] in values:
            preview = values[part["partId"]]["value"][: 64 << 10]
            if part["type"] == "text/html":
                preview = html.unescape(TAG.sub(" ", preview))
            preview = " ".join(preview.split())[:256]
            break
    message_id, in_reply_to, references = (ids_of(message, name) for name in ("Message-ID", "In-Reply-To", "References"))
    thread = message["X-GM-THRID"]
    if thread and thread.strip().isdigit():
        thread = "tg" + thread.strip()
    else:
        root = next((ids[0] for ids in (references, in_reply_to, message_id) if ids), None)
        thread = "t" + (sha256(root.encode()) if root else key)
    sent = date_of(message["Date"])
    received = record["received"]
    if not received:
        top = message["Received"]
        date = date_of(top.rpartition(";")[2]) if top else None
        received = utc(date) if date else utc(sent) if sent else None
    labels = record["labels"]
    mailboxes = {LABELS[label]: True for label in labels if label in LABELS}
    keywords = {KEYWORDS[label]: True for label in labels if label in KEYWORDS}
    if "Unread" in labels:
        keywords.pop("$seen", None)
    return {
        "id": "m" + key,
        "blobId": "b" + key,
        "threadId": thread,
        "mailboxIds": mailboxes or {"archive": True},
        "keywords": keywords,
        "size": len(raw),
        "receivedAt": received,
        "messageId": message_id,
        "inReplyTo": in_reply_to,
        "references": references,
        "sender": addresses_of(message, "Sender"),
        "from": addresses_of(message, "From"),
        "to": addresses_of(message, "To"),
        "cc": addresses_of(message, "Cc"),
        "bcc": addresses_of(message, "Bcc"),
        "replyTo": addresses_of(message, "Reply-To"),
        "subject": text_of(message, "Subject"),
        "sentAt": rfc3339(sent) if sent else None,
        "hasAttachment": any(part["disposition"] != "inline" for part in attachments),
        "preview": preview,
        "bodyStructure": structure,
        "bodyValues": values,
        "textBody": text_body,
        "htmlBody": html_body,
        "attachments": attachments,
    }


def canonicalize(lines, out):
    known = set()
    with open(lines, "rb") as lines, open(out, "w") as out:
        for line in lines:
            made = canonical(json.loads(line))
            if made and made["id"] not in known:
                known.add(made["id"])
                out.write(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


def messages(mbox):
    """Those of the sample, less the empty one; as ingester takes them apart."""
    found = []
    for line in open(mbox, "rb").read().splitlines(keepends=True):
        if line.startswith(b"From "):
            found.append([])
        elif re.match(rb">+From ", line):
            found[-1].append(line[1:])
        else:
            found[-1].append(line)
    return [message for message in map(b"".join, found) if message.strip()]


def copy_of(message, n, attachment):
    """Another message of the same shape: other ids, so that nothing is there twice."""
    n = str(n).encode()
    if attachment:
        head = b"Message-ID: <large-" + n + b"@example.org>\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=outer-" + n
        leaf = b"\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename=a.bin\nContent-Transfer-Encoding: base64\n\n"
        data = base64.encodebytes(random.Random(n).randbytes(attachment))
        head += b"\nSubject: large " + n + b"\nFrom: a@example.org\nDate: Mon, 1 Jan 2024 10:00:00 +0000\n\n--outer-" + n
        return head + b"\n\n" + message[-2000:] + b"\n--outer-" + n + leaf + data + b"--outer-" + n + b"--\n"
    if re.search(rb"(?m)^Message-ID: <", message):
        return re.sub(rb"(?m)^Message-ID: <", b"Message-ID: <" + n + b".", message, count=1)
    return message + b"\n" + n + b"\n"


def make(mbox, lines, copies, attachment):
    with open(lines, "w") as out:
        for n in range(copies):
            for i, message in enumerate(messages(mbox)):
                raw = copy_of(message, n * 100 + i, attachment)
                line = {"sha256": sha256(raw), "message_id": None, "date": None, "received": "2024-01-04T08:04:00Z"}
                line.update(labels=["Inbox", "Opened"], flags=None, size=len(raw), account="bench")
                try:
                    line["raw"] = raw.decode()
                except UnicodeDecodeError:
                    line["raw_base64"] = base64.b64encode(raw).decode()
                out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def compare(a, b):
    a, b = ({made["id"]: made for made in map(json.loads, open(path))} for path in (a, b))
    same = {}
    for key in a.keys() & b.keys():
        for field, value in a[key].items():
            same[field] = same.get(field, 0) + (b[key].get(field) == value)
    print(json.dumps({"a": len(a), "b": len(b), "both": len(a.keys() & b.keys()), "same": same}))


def main():
    task, args = sys.argv[1], sys.argv[2:]
    if task == "make":
        make(args[0], args[1], int(args[2]), int(args[3]))
    elif task == "canonicalize":
        canonicalize(*args)
    else:
        compare(*args)


main()
