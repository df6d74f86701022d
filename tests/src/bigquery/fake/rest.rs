//! The REST interface: routing, limits of requests, faults, and answers as JSON. Methods that need more than a line are in
//! [`super::insert_all`], [`super::query`], [`super::credentials`].

use super::faults::{Fault, Method};
use super::refusal::Refusal;
use super::serving::Door;
use super::state::Shared;
use super::tables::{Table, TableName};
use super::{credentials, insert_all, query};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// Maximum size of an insertAll body in bytes; above it the answer is not from the API.
const LARGEST_INSERT: usize = 10_000_000;
/// Maximum number of bytes that the fake reads.
const LARGEST_BODY: usize = 256 * 1024 * 1024;

/// The operation and the object of a request.
#[derive(Debug)]
enum Target {
    Project(String),
    Dataset(String, String),
    Table(TableName),
    None,
}

/// An answer before serialization.
#[derive(Debug)]
pub(super) enum Answer {
    Json(u16, Value),
    Text(u16, String),
    Html(u16),
    Empty(u16, Option<u32>),
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Json(refusal.http, refusal.json())
    }
}

/// Answers one request.
pub(super) async fn serve(
    shared: Arc<Shared>,
    door: Door,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let (method, target) = asked(&parts);
    let answer = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            shared.state().record(method, &parts.uri, &parts.headers, &body);
            answer(&shared, &door, &parts, method, &target, body).await
        }
        Err(_) => Answer::Html(413),
    };
    Ok(response(answer))
}

fn asked(parts: &Parts) -> (Method, Target) {
    let path = parts.uri.path();
    let verb = parts.method.as_str();
    if path == "/token" && verb == "POST" {
        return (Method::Token, Target::None);
    }
    if path.starts_with("/computeMetadata/") {
        return (Method::Metadata, Target::None);
    }
    let segments: Vec<&str> =
        path.strip_prefix("/bigquery/v2/projects/").map(|path| path.split('/').collect()).unwrap_or_default();
    let dataset = |project: &str, dataset: &str| Target::Dataset(project.to_owned(), dataset.to_owned());
    let table = |project, dataset, table| Target::Table(TableName::new(project, dataset, table));
    match (verb, &segments[..]) {
        ("POST", [project, "queries"]) => (Method::Query, Target::Project((*project).to_owned())),
        ("POST", [project, "datasets"]) => (Method::DatasetsInsert, Target::Project((*project).to_owned())),
        ("GET", [p, "datasets", d]) => (Method::DatasetsGet, dataset(p, d)),
        ("POST", [p, "datasets", d, "tables"]) => (Method::TablesInsert, dataset(p, d)),
        ("GET", [p, "datasets", d, "tables", t]) => (Method::TablesGet, table(p, d, t)),
        ("PATCH" | "PUT", [p, "datasets", d, "tables", t]) => (Method::TablesPatch, table(p, d, t)),
        ("DELETE", [p, "datasets", d, "tables", t]) => (Method::TablesDelete, table(p, d, t)),
        ("POST", [p, "datasets", d, "tables", t, "insertAll"]) => (Method::InsertAll, table(p, d, t)),
        _ => (Method::Other, Target::None),
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
async fn answer(shared: &Shared, door: &Door, parts: &Parts, method: Method, target: &Target, body: Bytes) -> Answer {
    let fault = shared.meet(method);
    shared.before(fault.as_ref(), door).await;
    match fault {
        Some(Fault::Status(status, reason)) => return Refusal::new(status, reason, format!("scripted: {reason}")).into(),
        Some(Fault::Html(status)) => return Answer::Html(status),
        Some(Fault::Empty(status, after)) => return Answer::Empty(status, after),
        _ => {}
    }
    let answer = work(shared, parts, method, target, &body, fault.as_ref());
    shared.after(fault.as_ref(), door).await;
    answer
}

#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
fn work(shared: &Shared, parts: &Parts, method: Method, target: &Target, body: &Bytes, fault: Option<&Fault>) -> Answer {
    if matches!(method, Method::Token | Method::Metadata) {
        return credentials::answer(shared, parts, method, body);
    }
    let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !shared.state().may_pass(authorization) {
        return Refusal::unauthenticated().into();
    }
    if let (Some(fault), Target::Table(table)) = (fault, target) {
        shared.state().upset(Some(fault), table, None);
    }
    if method == Method::InsertAll && body.len() > LARGEST_INSERT {
        return Answer::Html(413);
    }
    worked(shared, method, target, body, fault).map_or_else(Answer::from, |value| Answer::Json(200, value))
}

fn worked(shared: &Shared, method: Method, target: &Target, body: &Bytes, fault: Option<&Fault>) -> Result<Value, Refusal> {
    let parsed = || {
        serde_json::from_slice::<Value>(body).map_err(|error| Refusal::new(400, "parseError", format!("Parse Error: {error}")))
    };
    match (method, target) {
        (Method::DatasetsGet, Target::Dataset(project, dataset)) => {
            let state = shared.state();
            let found = state.datasets.get(&(project.clone(), dataset.clone())).cloned();
            found.ok_or_else(|| Refusal::not_found(format!("Not found: Dataset {project}:{dataset}")))
        }
        (Method::DatasetsInsert, Target::Project(project)) => {
            let body = parsed()?;
            let dataset = body["datasetReference"]["datasetId"].as_str();
            let dataset = dataset.ok_or_else(|| Refusal::invalid("Required parameter is missing: datasetReference.datasetId"))?;
            shared.state().create_dataset(project, dataset, &body)
        }
        (Method::TablesInsert, Target::Dataset(project, dataset)) => {
            let body = parsed()?;
            let table = body["tableReference"]["tableId"].as_str();
            let table = table.ok_or_else(|| Refusal::invalid("Required parameter is missing: tableReference.tableId"))?;
            shared.state().create_table(&TableName::new(project, dataset, table), &body)
        }
        (Method::TablesGet, Target::Table(name)) => Ok(described(shared.state().table(name)?)),
        (Method::TablesPatch, Target::Table(name)) => {
            let body = parsed()?;
            let mut state = shared.state();
            let table = state.table(name)?;
            table.patch(name, &body)?;
            Ok(described(table))
        }
        (Method::TablesDelete, Target::Table(name)) => shared.state().drop_table(name).map(|()| json!({})),
        (Method::InsertAll, Target::Table(name)) => insert_all::insert_all(shared, name, body, fault),
        (Method::Query, Target::Project(project)) => {
            let mut state = shared.state();
            if let Some(Fault::VanishTable(_)) = fault {
                state.upset(fault, &TableName::new("", "", ""), None);
            }
            query::query(&mut state, project, &parsed()?)
        }
        _ => Err(Refusal::not_found("Not Found")),
    }
}

fn described(table: &Table) -> Value {
    let mut resource = table.resource.clone();
    resource["numRows"] = (table.rows.len() as u64 + table.acknowledged).to_string().into();
    resource
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let (status, kind, body, after) = match answer {
        Answer::Json(status, value) => (status, "application/json; charset=UTF-8", value.to_string(), None),
        Answer::Text(status, text) => (status, "application/text", text, None),
        Answer::Html(status) => {
            let page = format!(
                "<!DOCTYPE html>\n<html lang=en><title>Error {status}</title><p><b>{status}.</b> That is an error.</html>\n"
            );
            (status, "text/html; charset=UTF-8", page, None)
        }
        Answer::Empty(status, after) => (status, "", String::new(), after),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !kind.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Some(seconds) = after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response.headers_mut().insert("metadata-flavor", HeaderValue::from_static("Google"));
    response
}
