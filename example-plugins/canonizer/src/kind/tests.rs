//! Tests of the schemas, and the validation used by other tests.

use super::*;
use jsonschema::Validator;
use lorchestra_plugin_api::serde_json::{self, Value, json};

fn validator(kind: &Kind) -> Validator {
    let schema: Value = serde_json::from_str(kind.schema).unwrap();
    jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap()
}

/// Panics if an object does not match the schema of its kind.
pub(crate) fn assert_valid<'a>(kind: &Kind, objects: impl IntoIterator<Item = &'a Value>) {
    let validator = validator(kind);
    for object in objects {
        let errors: Vec<String> = validator.iter_errors(object).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{object:#}");
    }
}

#[test]
fn schemas_are_valid_and_have_one_name() {
    for kind in [&EMAIL, &MESSAGE] {
        let schema: Value = serde_json::from_str(kind.schema).unwrap();
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{}", kind.schema_file);
        assert_eq!(
            (&schema["$id"], &schema["$schema"]),
            (&json!(kind.schema_ref), &json!("https://json-schema.org/draft/2020-12/schema"))
        );
    }
}

/// Every property of the objects must be in the schema, and every property of the schema is required, so that a change on one
/// side only is detected. This test shows that the schemas refuse invalid objects.
#[test]
fn invalid_objects_are_refused() {
    let email = crate::canonicalization::tests::samples();
    let email = crate::email::tests::email(&email[2]);
    let message = crate::message::tests::samples().remove(1);
    for (kind, object, changes) in [
        (
            &EMAIL,
            email,
            vec![
                ("/id", json!("m 1")),
                ("/receivedAt", json!("2024-01-01T10:00:00+01:00")),
                ("/receivedAt", json!("soon")),
                ("/sentAt", json!("2024-02-31T10:00:00Z")),
                ("/mailboxIds", json!({})),
                ("/keywords", json!({"$seen": false})),
                ("/size", json!(-1)),
                ("/from/0/name", json!(1)),
                ("/preview", json!("x".repeat(257))),
                ("/bodyStructure/partId", json!("1")),
                ("/bodyStructure/subParts/0/blobId", Value::Null),
                ("/bodyStructure/subParts/0/more", json!(1)),
                ("/textBody/0/subParts", json!([])),
                ("/bodyValues/1/isTruncated", Value::Null),
                ("/more", json!(1)),
            ],
        ),
        (
            &MESSAGE,
            message,
            vec![
                ("/id", json!("slack:demo:C0:17")),
                ("/source", json!("irc")),
                ("/channel/id", json!("")),
                ("/sender/is_bot", Value::Null),
                ("/kind", json!("other")),
                ("/sent_at", json!("2024-01-01T10:00:00+01:00")),
                ("/deleted", json!(true)),
                ("/text", Value::Null),
                ("/reactions/0/count", json!(-1)),
                ("/more", json!(1)),
            ],
        ),
    ] {
        let validator = validator(kind);
        assert!(validator.is_valid(&object));
        for (path, value) in changes {
            let mut changed = object.clone();
            let (parent, name) = path.rsplit_once('/').unwrap();
            changed.pointer_mut(parent).unwrap()[name] = value.clone();
            assert!(!validator.is_valid(&changed), "{} takes {path}: {value}", kind.schema_file);
        }
        for name in object.as_object().unwrap().keys() {
            let mut less = object.clone();
            less.as_object_mut().unwrap().remove(name);
            assert!(!validator.is_valid(&less), "{} goes without {name}", kind.schema_file);
        }
    }
}
