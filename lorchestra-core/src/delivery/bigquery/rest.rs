//! The REST API: gcp-bigquery-client on top of our HTTP client. Owns the calls for one table. Guarantees an answer or a [`DeliveryError`]
//! within the request timeout.
//!
//! The client asks its authenticator for a token inside each call, and cannot pass on an error of ours. So the token is fetched before, and
//! the authenticator only returns it. Some calls bypass the client, with the same HTTP client: see [`Rest::raw`] and [`Rest::insert_all`].

use super::answer::{self, inserted, later};
use super::columns::Layout;
use super::{encode, redact};
use crate::delivery::{DeliveryError, Row};
use gcp_bigquery_client::Client;
use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::get_query_results_parameters::GetQueryResultsParameters;
use gcp_bigquery_client::model::query_parameter::QueryParameter;
use gcp_bigquery_client::model::query_parameter_type::QueryParameterType;
use gcp_bigquery_client::model::query_parameter_value::QueryParameterValue;
use gcp_bigquery_client::model::query_request::QueryRequest;
use gcp_bigquery_client::model::query_response::QueryResponse;
use gcp_bigquery_client::model::table_data_insert_all_response::TableDataInsertAllResponse;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::codegen::async_trait;

/// Maximum size of a request: below Google's limit of 10 MB, with space for the data around the rows.
pub(super) const MAX_REQUEST: usize = 9_500_000;
/// Maximum number of rows in an insertAll request.
const MAX_ROWS: usize = 50_000;
/// Token sent to an emulator, which ignores it; the client cannot omit it.
const NO_TOKEN: &str = "none";

/// The token for the next call.
#[derive(Clone)]
struct CurrentToken(Arc<Mutex<String>>);

#[async_trait]
impl Authenticator for CurrentToken {
    async fn access_token(&self) -> Result<String, BQError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// REST calls for one table.
pub(super) struct Rest {
    client: Client,
    http: reqwest::Client,
    base: String,
    token: CurrentToken,
    timeout: Duration,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A request that bypasses the client.
pub(super) struct Call<'a> {
    /// Its subject, for messages.
    pub(super) about: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) method: Method,
    pub(super) path: &'a str,
}

/// A query for ids.
pub(super) struct LookUp<'a> {
    /// The location of the dataset, if known.
    pub(super) location: Option<&'a str>,
    pub(super) sql: String,
    /// The array parameter `@ids`.
    pub(super) ids: &'a [&'a str],
    /// The parameters `@first` and `@last`: times in RFC 3339.
    pub(super) between: Option<[String; 2]>,
}

impl Rest {
    /// Creates the client without a request. `base` ends in `/bigquery/v2`.
    pub(super) async fn new(base: String, http: reqwest::Client, timeout: Duration) -> Result<Self, DeliveryError> {
        let token = CurrentToken(Arc::new(Mutex::new(NO_TOKEN.to_owned())));
        let mut builder = ClientBuilder::new();
        builder.with_v2_base_url(base.clone()).with_client(http.clone());
        let built = builder.build_from_authenticator(Arc::new(token.clone())).await;
        let client =
            built.map_err(|error| DeliveryError::Denied(format!("no client: {}", redact::one_line(&error.to_string()))))?;
        Ok(Self { client, http, base, token, timeout })
    }

    /// Returns the client for a call with this token.
    pub(super) fn with(&self, token: Option<&str>) -> &Client {
        let token = token.unwrap_or(NO_TOKEN);
        token.clone_into(&mut self.token.0.lock().unwrap_or_else(PoisonError::into_inner));
        &self.client
    }

    /// Makes a request that bypasses the client, where its model would lose something: a schema that is sent back must keep what the client
    /// does not know (policy tags, lengths, defaults), or BigQuery considers that a change; and the client cannot parse a schema with a
    /// type that it does not know.
    pub(super) async fn raw(&self, call: Call<'_>, body: Option<&Value>) -> Result<Value, DeliveryError> {
        let about = call.about;
        let body = match body.map(serde_json::to_vec) {
            None => None,
            Some(Ok(body)) => Some(body),
            Some(Err(error)) => return Err(DeliveryError::Denied(format!("{about}: {}", redact::one_line(&error.to_string())))),
        };
        match self.call(call, body).await? {
            Ok(answer) => Ok(answer),
            Err(fault) => Err(fault.meaning(about, str::to_owned)),
        }
    }

    /// Sends one request and parses the answer as JSON. The inner error is an error response of the server.
    async fn call<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        body: Option<Vec<u8>>,
    ) -> Result<Result<T, HttpFault>, DeliveryError> {
        let Call { about, token, method, path } = call;
        let mut request = self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(token.unwrap_or(NO_TOKEN));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| answer::request(about, &error))?;
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let text = response.bytes().await.map_err(|error| answer::request(about, &error))?;
        if status.is_success() {
            let unreadable = |_| later(format!("{about}: HTTP {}, and the response is not from BigQuery", status.as_u16()));
            return serde_json::from_slice(&text).map(Ok).map_err(unreadable);
        }
        let (reasons, message) = google_error(&text);
        Ok(Err(HttpFault { status: status.as_u16(), reasons, message, after: after.map(Duration::from_secs) }))
    }

    /// Sends an insertAll request: the whole batch, or nothing of it. `event_id` is the insert id, by which BigQuery usually drops
    /// duplicates within a minute.
    ///
    /// Bypasses the client, which would lose the status of a 413 or 429 from a proxy, and a Retry-After.
    pub(super) async fn insert_all(
        &self,
        table: &TableName,
        token: Option<&str>,
        layout: &Layout,
        rows: &[Row],
    ) -> Result<(), DeliveryError> {
        let about = table.full.as_str();
        if rows.len() > MAX_ROWS {
            return Err(DeliveryError::TooLarge(format!(
                "{about}: {} rows in one request; the maximum is {MAX_ROWS}",
                rows.len()
            )));
        }
        // Serializing strings and numbers cannot fail.
        let request = encode::InsertAll::of(layout, rows);
        let body = serde_json::to_vec(&request).map_err(|error| DeliveryError::Denied(format!("{about}: {error}")))?;
        if body.len() > MAX_REQUEST {
            return Err(DeliveryError::TooLarge(format!(
                "{about}: {} bytes in one request; the maximum is {MAX_REQUEST}",
                body.len()
            )));
        }
        let path = format!("{}/insertAll", table.resource());
        let hidden = |text: &str| redact::without(text, rows);
        let call = Call { about, token, method: Method::POST, path: &path };
        match self.call::<TableDataInsertAllResponse>(call, Some(body)).await? {
            Ok(response) => {
                let hide = |index: usize, text: &str| redact::without(text, rows.get(index));
                inserted(about, rows.len(), response.insert_errors.as_deref().unwrap_or_default(), hide).map_or(Ok(()), Err)
            }
            Err(fault) => Err(match (fault.status, fault.meaning(about, hidden)) {
                // The cause is in these rows: splitting finds which one.
                (400, DeliveryError::Denied(text)) => DeliveryError::Malformed(text),
                (_, refusal) => refusal,
            }),
        }
    }

    /// Returns the first column of a query's rows. `ids` is the array parameter `@ids`.
    pub(super) async fn query(
        &self,
        table: &TableName,
        token: Option<&str>,
        query: LookUp<'_>,
    ) -> Result<Vec<String>, DeliveryError> {
        let LookUp { location, sql, ids, between } = query;
        let about = table.full.as_str();
        let ended = Instant::now() + self.timeout;
        let client = self.with(token);
        let mut request = QueryRequest::new(sql);
        request.location = location.map(str::to_owned);
        // The table changes constantly, so an old answer is useless.
        request.use_query_cache = Some(false);
        // Shorter than our own limit, so that the job's name is returned.
        request.timeout_ms = Some(wait(self.timeout / 2));
        request.parameter_mode = Some("NAMED".to_owned());
        let times = between.into_iter().flat_map(|[first, last]| [time_parameter("first", first), time_parameter("last", last)]);
        request.query_parameters = Some(std::iter::once(ids_parameter(ids)).chain(times).collect());
        let mut answer = client.job().query(&table.project, request).await.map_err(|error| answer::rest(about, &error))?;
        let mut found = Vec::new();
        loop {
            let complete = answer.job_complete == Some(true);
            if complete {
                // A failed query may return 200, complete and without rows: that does not mean "none of them".
                failed(about, &answer)?;
                let cells =
                    answer.rows.iter().flatten().filter_map(|row| row.columns.as_ref()?.first()?.value.as_ref()?.as_str());
                found.extend(cells.map(str::to_owned));
                if answer.page_token.is_none() {
                    return Ok(found);
                }
            }
            let job = answer.job_reference.as_ref().and_then(|job| Some((job.job_id.clone()?, job.location.clone())));
            let (Some((job, location)), true) = (job, Instant::now() < ended) else {
                return Err(answer::too_late(about, self.timeout));
            };
            let left = ended.saturating_duration_since(Instant::now());
            let parameters = GetQueryResultsParameters {
                location,
                page_token: answer.page_token.filter(|_| complete),
                timeout_ms: Some(wait(left / 2)),
                ..GetQueryResultsParameters::default()
            };
            let next = client.job().get_query_results(&table.project, &job, parameters).await;
            answer = QueryResponse::from(next.map_err(|error| answer::rest(about, &error))?);
        }
    }
}

fn failed(about: &str, answer: &QueryResponse) -> Result<(), DeliveryError> {
    let errors = answer.errors.as_deref().unwrap_or_default();
    let reasons: Vec<&str> = errors.iter().filter_map(|error| error.reason.as_deref()).collect();
    if let Some(error) = errors.first() {
        return Err(answer::http(about, 400, &reasons, error.message.as_deref().unwrap_or_default(), None));
    }
    let has_columns =
        answer.schema.as_ref().is_some_and(|schema| schema.fields.as_ref().is_some_and(|fields| !fields.is_empty()));
    if has_columns { Ok(()) } else { Err(later(format!("{about}: the query result has no columns"))) }
}

fn wait(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)
}

fn time_parameter(name: &str, at: String) -> QueryParameter {
    let kind = QueryParameterType { r#type: "TIMESTAMP".to_owned(), array_type: None, struct_types: None };
    QueryParameter {
        name: Some(name.to_owned()),
        parameter_type: Some(kind),
        parameter_value: Some(QueryParameterValue { value: Some(at), ..QueryParameterValue::default() }),
    }
}

fn ids_parameter(ids: &[&str]) -> QueryParameter {
    let kind = |name: &str, array_type| QueryParameterType { r#type: name.to_owned(), array_type, struct_types: None };
    let value = |id: &&str| QueryParameterValue { value: Some((*id).to_owned()), ..QueryParameterValue::default() };
    QueryParameter {
        name: Some("ids".to_owned()),
        parameter_type: Some(kind("ARRAY", Some(Box::new(kind("STRING", None))))),
        parameter_value: Some(QueryParameterValue {
            array_values: Some(ids.iter().map(value).collect()),
            ..QueryParameterValue::default()
        }),
    }
}

/// An error response.
struct HttpFault {
    status: u16,
    reasons: Vec<String>,
    message: String,
    after: Option<Duration>,
}

impl HttpFault {
    /// Classifies the error. `hide` redacts the message.
    fn meaning(&self, about: &str, hide: impl Fn(&str) -> String) -> DeliveryError {
        let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
        answer::http(about, i64::from(self.status), &reasons, &hide(&self.message), self.after)
    }
}

/// Returns the reasons and the message of Google's JSON error. A proxy's page has neither.
fn google_error(text: &[u8]) -> (Vec<String>, String) {
    #[derive(Deserialize)]
    struct Outer {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(default)]
        message: String,
        #[serde(default)]
        status: Option<String>,
        #[serde(default)]
        errors: Vec<Value>,
    }
    let Ok(Outer { error }) = serde_json::from_slice(text) else {
        return (Vec::new(), "a response that is not from BigQuery".to_owned());
    };
    let mut reasons: Vec<String> =
        error.errors.iter().filter_map(|error| error.get("reason")?.as_str().map(str::to_owned)).collect();
    if reasons.is_empty() {
        reasons.extend(error.status);
    }
    (reasons, error.message)
}

/// A table's name, in full and in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) project: String,
    pub(super) dataset: String,
    pub(super) table: String,
    /// `project.dataset.table`.
    pub(super) full: String,
}

impl TableName {
    pub(super) fn new(project: &str, dataset: &str, table: &str) -> Self {
        let full = format!("{project}.{dataset}.{table}");
        Self { project: project.to_owned(), dataset: dataset.to_owned(), table: table.to_owned(), full }
    }

    /// The table's resource name in the Storage Write API, which is also its path in the REST API.
    pub(super) fn resource(&self) -> String {
        format!("projects/{}/datasets/{}/tables/{}", self.project, self.dataset, self.table)
    }
}
