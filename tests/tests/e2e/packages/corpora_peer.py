"""Header fields and attachment names of messages, by Python's email package. Prints one JSON object per file."""
import email.policy, email.utils, json, sys


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


def names(message):
    return sorted(name for part in message.walk() if not part.is_multipart() and (name := attempt(part.get_filename)))


for path in sys.argv[1:]:
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    subject = attempt(lambda: message.get("subject"))
    print(json.dumps({
        "subject": None if subject is None else str(subject),
        "from": attempt(lambda: addresses(message, "from")),
        "to": attempt(lambda: addresses(message, "to")),
        "date": attempt(lambda: date(message)),
        "message-id": attempt(lambda: message.get("message-id") and str(message.get("message-id")).strip().strip("<>")),
        "names": attempt(lambda: names(message)),
    }))
