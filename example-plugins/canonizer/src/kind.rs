//! The kinds of objects that are made: the names of their files, their schemas, and words for people. Talks to nobody.

/// A kind of objects.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Of these it is made, for people.
    pub(crate) subject: &'static str,
    /// One of them, with its article.
    pub(crate) thing: &'static str,
    /// Package and job that leave them.
    pub(crate) extractor: &'static str,
    /// File of the objects.
    pub(crate) results: &'static str,
    /// File of what could not be made one.
    pub(crate) set_aside: &'static str,
    /// File that one run at a time locks.
    pub(crate) lock: &'static str,
    /// File of the schema.
    pub(crate) schema_file: &'static str,
    /// JSON Schema (2020-12) of an object.
    pub(crate) schema: &'static str,
    /// What the schema is known by: its `$id`, and `schema_ref` of events. A change that a reader must know of raises it.
    pub(crate) schema_ref: &'static str,
}

/// JMAP's Email.
pub(crate) const EMAIL: Kind = Kind {
    subject: "mail",
    thing: "a message",
    extractor: "ingester/extract_gmail",
    results: "email.jsonl",
    set_aside: "set_aside.jsonl",
    lock: ".canonicalize_email.lock",
    schema_file: "email.schema.json",
    schema: include_str!("../schemas/email.schema.json"),
    schema_ref: "iglu:lorchestra.canonizer/email/jsonschema/1-0-0",
};

/// A message of a chat.
pub(crate) const MESSAGE: Kind = Kind {
    subject: "chat",
    thing: "a message of Slack",
    extractor: "ingester/extract_slack",
    results: "message.jsonl",
    set_aside: "message_set_aside.jsonl",
    lock: ".canonicalize_message.lock",
    schema_file: "message.schema.json",
    schema: include_str!("../schemas/message.schema.json"),
    schema_ref: "iglu:lorchestra.canonizer/message/jsonschema/1-0-0",
};

#[cfg(test)]
pub(crate) mod tests;
