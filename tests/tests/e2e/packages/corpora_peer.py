"""Header fields and attachment names of messages, by Python's email package. Prints one JSON object per file."""
import email, email.policy, json, re, sys


def attempt(read):
    try:
        return read()
    except Exception:
        return None


def addresses(message, name):
    field = message.get(name)
    if field is None:
        return []
    return [[address.display_name, address.addr_spec] for address in field.addresses]


def date(message):
    field = message.get("date")
    if field is None:
        return None
    when = field.datetime
    return int((when if when.tzinfo else when.replace(tzinfo=__import__("datetime").timezone.utc)).timestamp())


def leaves(part):
    """Parts without parts; a message in a message is one."""
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        return [leaf for each in part.get_payload() for leaf in leaves(each)]
    return [part]


def names(message):
    return sorted(name for part in leaves(message) if (name := attempt(part.get_filename)))


for path in sys.argv[1:]:
    with open(path, "rb") as file:
        data = file.read()
    message = email.message_from_bytes(data, policy=email.policy.default)
    # The older policy reads parameters in its own way.
    older = email.message_from_bytes(data)
    subject = attempt(lambda: message.get("subject"))
    text = json.dumps({
        "subject": None if subject is None else str(subject),
        "from": attempt(lambda: addresses(message, "from")),
        "to": attempt(lambda: addresses(message, "to")),
        "date": attempt(lambda: date(message)),
        "message-id": attempt(lambda: message.get("message-id") and str(message.get("message-id")).strip().strip("<>")),
        "names": attempt(lambda: names(message)),
        "older names": attempt(lambda: names(older)),
    }, ensure_ascii=False)
    # Bytes that it could not read are surrogates, which JSON does not have.
    print(re.sub("[\ud800-\udfff]", "\ufffd", text))
