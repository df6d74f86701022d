//! The kinds of objects: names of their files, schemas, and texts for messages.

/// A kind of object.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The input of the objects, for messages.
    pub(crate) subject: &'static str,
    /// A single object with its article, for messages.
    pub(crate) thing: &'static str,
    /// Package and job that write the input.
    pub(crate) extractor: &'static str,
    /// File of the objects.
    pub(crate) results: &'static str,
    /// File of the lines that could not be converted.
    pub(crate) set_aside: &'static str,
    /// Lock file: one run at a time.
    pub(crate) lock: &'static str,
    /// File of the schema.
    pub(crate) schema_file: &'static str,
    /// JSON Schema (2020-12) of an object.
    pub(crate) schema: &'static str,
    /// Identifier of the schema: its `$id`, and the `schema_ref` of events. Incremented by changes that affect readers.
    pub(crate) schema_ref: &'static str,
}

/// JMAP Email objects.
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

/// Chat messages.
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
