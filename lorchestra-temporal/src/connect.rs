//! The connection to Temporal: from flags, Temporal's own environment variables and `temporal.toml`, with one sentence for each way to fail.

use crate::error::{CommandError, UNAVAILABLE, USAGE};
use crate::group::{Progress, workflow_id};
use crate::group_workflow::GroupWorkflow;
use clap::Args;
use std::error::Error;
use std::time::Duration;
use temporalio_client::envconfig::LoadClientConfigProfileOptions;
use temporalio_client::errors::{ClientConnectError, WorkflowGetResultError, WorkflowInteractionError};
use temporalio_client::tonic::{Code, Request, Status};
use temporalio_client::{
    Client, ClientOptions, Connection, Url, WorkflowDescribeOptions, WorkflowExecutionDescription, WorkflowExecutionStatus,
    WorkflowGetResultOptions, WorkflowHandle,
};
use temporalio_common::error::IncomingError;
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A handle to the workflow of a group.
pub(crate) type GroupHandle = WorkflowHandle<Client, GroupWorkflow>;

/// Where Temporal is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    /// Address of the server [default: TEMPORAL_ADDRESS, temporal.toml, or localhost:7233]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Namespace [default: TEMPORAL_NAMESPACE, temporal.toml, or default]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

impl ConnectArgs {
    /// Connects, and checks that the namespace exists.
    ///
    /// # Errors
    /// If the server cannot be reached, or has no such namespace.
    pub(crate) async fn connect(&self) -> Result<Client, CommandError> {
        let (mut connection, mut client) =
            ClientOptions::load_from_config(LoadClientConfigProfileOptions::default()).map_err(|error| {
                CommandError::new(USAGE, format!("the configuration of Temporal cannot be used: {}", root(&error)))
            })?;
        if let Some(address) = &self.address {
            let scheme = if connection.tls_options.is_some() { "https" } else { "http" };
            let url = if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") };
            connection.target =
                Url::parse(&url).map_err(|error| CommandError::new(USAGE, format!("--address {address}: {error}")))?;
        }
        if let Some(namespace) = &self.namespace {
            client.namespace.clone_from(namespace);
        }
        connection.connect_timeout = Some(CONNECT);
        connection.identity = format!("lorchestra-temporal@{}", std::process::id());
        let address = connection.target.to_string();
        let address = address.trim_end_matches('/').to_owned();
        let connected = tokio::time::timeout(2 * CONNECT, Connection::connect(connection)).await;
        let connected = connected.map_err(|_| unreachable_server(&address, "no answer"))?;
        let connected = connected.map_err(|error| match error {
            ClientConnectError::SystemInfoCallError(status) => unreachable_server(&address, status.message()),
            error => unreachable_server(&address, &root(&error)),
        })?;
        let namespace = client.namespace.clone();
        let request = Request::new(DescribeNamespaceRequest { namespace: namespace.clone(), ..Default::default() });
        match connected.workflow_service().describe_namespace(request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {
                return Err(CommandError::new(UNAVAILABLE, format!("the server at {address} has no namespace {namespace:?}"))
                    .hint(format!("create it: temporal operator namespace create --namespace {namespace}")));
            }
            Err(status) => return Err(refused(&status)),
        }
        Client::new(connected, client).map_err(CommandError::internal)
    }
}

fn unreachable_server(address: &str, why: &str) -> CommandError {
    CommandError::new(UNAVAILABLE, format!("Temporal cannot be reached at {address}: {why}"))
        .hint("start the server, or set --address or TEMPORAL_ADDRESS")
}

/// The server has refused a request.
pub(crate) fn refused(status: &Status) -> CommandError {
    CommandError::new(UNAVAILABLE, format!("Temporal refused the request: {} ({})", status.message(), status.code()))
}

/// A request has failed.
pub(crate) fn failed(error: &(dyn Error + 'static)) -> CommandError {
    match error.source().and_then(|source| source.downcast_ref::<Status>()) {
        Some(status) => refused(status),
        None => CommandError::new(UNAVAILABLE, format!("Temporal: {error}")),
    }
}

fn root(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// What the server knows about a group.
#[derive(Debug)]
pub(crate) enum GroupStatus {
    /// Nothing: it was never submitted, or the server has removed it after its retention time.
    Unknown,
    /// It is running.
    Running(Box<WorkflowExecutionDescription>),
    /// It has ended.
    Ended {
        /// In which way.
        status: WorkflowExecutionStatus,
        /// How far it came; `None` if it was terminated.
        progress: Option<Progress>,
    },
}

/// Returns the handle of a group.
pub(crate) fn group(client: &Client, group: &str) -> GroupHandle {
    client.get_workflow_handle::<GroupWorkflow>(workflow_id(group))
}

/// Asks for the status of a group.
///
/// # Errors
/// If the server does not answer.
pub(crate) async fn status(handle: &GroupHandle) -> Result<GroupStatus, CommandError> {
    let described = match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(described) => described,
        Err(WorkflowInteractionError::NotFound(_)) => return Ok(GroupStatus::Unknown),
        Err(error) => return Err(failed(&error)),
    };
    let status = described.status();
    if matches!(status, WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Paused) {
        return Ok(GroupStatus::Running(Box::new(described)));
    }
    let progress = match handle.get_result(WorkflowGetResultOptions::default()).await {
        Ok(progress) => Some(progress),
        Err(WorkflowGetResultError::Failed(error)) => match *error {
            IncomingError::Application(failure) => failure.details::<Progress>().ok().flatten(),
            _ => None,
        },
        Err(WorkflowGetResultError::Cancelled { details }) => details.deserialize::<Progress>().ok(),
        Err(error) if error.is_workflow_outcome() => None,
        Err(error) => return Err(failed(&error)),
    };
    Ok(GroupStatus::Ended { status, progress })
}
