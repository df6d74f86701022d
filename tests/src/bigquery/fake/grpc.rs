//! The gRPC interface: `google.cloud.bigquery.storage.v1.BigQueryWrite`. Decodes messages for [`super::streams`], encodes its answers and
//! statuses, and applies faults. Does not handle streams or rows itself.

use super::faults::{Fault, Method};
use super::refusal::Refusal;
use super::serving::Door;
use super::state::Shared;
use super::streams::{self, Appending, Refused};
use bytes::{Buf, BufMut, Bytes};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use hyper::body::Incoming;
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Code, Request, Response, Status};

/// Above the limit of a request, for which the service itself returns an error.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// Answers one call.
pub(super) async fn serve(
    shared: Arc<Shared>,
    door: Door,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let call = Call { shared, door, uri: request.uri().clone() };
    let mut grpc = tonic::server::Grpc::new(Untyped).apply_max_message_size_config(Some(LARGEST_MESSAGE), None);
    let method = request.uri().path().strip_prefix("/google.cloud.bigquery.storage.v1.BigQueryWrite/").map(str::to_owned);
    let unary = |method| Unary { call: call.clone(), method };
    Ok(match method.as_deref() {
        Some("AppendRows") => grpc.streaming(Append(call), request).await,
        Some("CreateWriteStream") => grpc.unary(unary(Method::CreateStream), request).await,
        Some("GetWriteStream") => grpc.unary(unary(Method::GetStream), request).await,
        Some("FinalizeWriteStream") => grpc.unary(unary(Method::Finalize), request).await,
        _ => grpc.unary(unary(Method::Other), request).await,
    })
}

/// Passes messages as bytes: the handler decides how far to decode them.
#[derive(Debug, Clone, Copy)]
struct Untyped;

impl Codec for Untyped {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Untyped {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Untyped {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[derive(Debug, Clone)]
struct Call {
    shared: Arc<Shared>,
    door: Door,
    uri: http::Uri,
}

impl Call {
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if self.shared.state().may_pass(authorization) { Ok(()) } else { Err(status_of(&Refusal::unauthenticated())) }
    }
}

/// One request, one answer.
#[derive(Debug)]
struct Unary {
    call: Call,
    method: Method,
}

impl Service<Request<Bytes>> for Unary {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let Call { shared, door, uri } = self.call.clone();
        let method = self.method;
        let authorized = self.call.authorize(&request);
        Box::pin(async move {
            let headers = request.metadata().clone().into_headers();
            shared.state().record(method, &uri, &headers, request.get_ref());
            let fault = shared.meet(method);
            shared.before(fault.as_ref(), &door).await;
            authorized?;
            if let Some(Fault::Grpc(code, message, storage)) = fault {
                return Err(Refused::scripted(code, message, storage).into_status());
            }
            let message = request.into_inner();
            let worked = match method {
                Method::CreateStream => {
                    streams::create(&shared, &decode::<api::CreateWriteStreamRequest>(message)?, fault.as_ref())
                        .map(|stream| stream.encode_to_vec())
                }
                Method::GetStream => streams::get(&shared, &decode::<api::GetWriteStreamRequest>(message)?, fault.as_ref())
                    .map(|stream| stream.encode_to_vec()),
                Method::Finalize => {
                    streams::finalize(&shared, &decode::<api::FinalizeWriteStreamRequest>(message)?.name, fault.as_ref())
                        .map(|row_count| api::FinalizeWriteStreamResponse { row_count }.encode_to_vec())
                }
                _ => return Err(Status::unimplemented("the fake has no such method")),
            };
            shared.after(fault.as_ref(), &door).await;
            worked.map(|message| Response::new(message.into())).map_err(Refused::into_status)
        })
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The status with the same meaning as a REST error.
pub(super) fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal.http {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::AlreadyExists,
        _ => Code::Unknown,
    };
    Status::new(code, refusal.message.clone())
}

/// A stream of messages, and an answer to each, in order.
#[derive(Debug)]
struct Append(Call);

impl Service<Request<Streaming<Bytes>>> for Append {
    type Response = Response<Answers>;
    type Error = Status;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let Call { shared, door, uri } = self.0.clone();
        let authorized = self.0.authorize(&request);
        Box::pin(async move {
            authorized?;
            let routing =
                request.metadata().get("x-goog-request-params").and_then(|value| value.to_str().ok()).unwrap_or_default();
            shared.state().routing.push(routing.to_owned());
            let headers = request.metadata().clone().into_headers();
            let (answers, mut answered) = mpsc::channel(16);
            let call = Call { shared, door, uri };
            tokio::spawn(answer_all(call, (headers, request.into_inner()), answers));
            // Google's servers send their headers with the first answer: a client that waits for them before sending waits forever.
            match answered.recv().await {
                Some(Err(status)) => Err(status),
                first => Ok(Response::new(Answers { first, others: answered })),
            }
        })
    }
}

/// The answers of one AppendRows call.
#[derive(Debug)]
struct Answers {
    first: Option<Result<Bytes, Status>>,
    others: mpsc::Receiver<Result<Bytes, Status>>,
}

impl tonic::codegen::tokio_stream::Stream for Answers {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.others.poll_recv(context),
        }
    }
}

/// Counts a call as open while it exists.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.open_appends += 1;
        state.peak_appends = state.peak_appends.max(state.open_appends);
        drop(state);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().open_appends -= 1;
    }
}

async fn answer_all(
    Call { shared, door, uri }: Call,
    (headers, mut messages): (http::HeaderMap, Streaming<Bytes>),
    answers: mpsc::Sender<Result<Bytes, Status>>,
) {
    let open = Open::new(Arc::clone(&shared));
    // Processed in order; each answer is sent when it is due, after the earlier ones.
    let (worked, mut due) = mpsc::unbounded_channel::<(Instant, Result<Bytes, Status>)>();
    let working = async {
        let mut appending = Appending::new();
        while let Ok(Some(message)) = messages.message().await {
            shared.state().record(Method::AppendRows, &uri, &headers, &message);
            let (late, answer) = answer(&shared, &door, &mut appending, &message).await;
            let last = answer.is_err();
            if worked.send((Instant::now() + late, answer)).is_err() || last {
                break;
            }
        }
        drop(worked);
    };
    let answering = async {
        while let Some((at, answer)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    };
    // A client that has disconnected ends a silence.
    tokio::select! {
        ((), ()) = async { tokio::join!(working, answering) } => {}
        () = answers.closed() => {}
    }
    drop(open);
}

/// The delay and the answer; an `Err` ends the call.
async fn answer(shared: &Shared, door: &Door, appending: &mut Appending, message: &Bytes) -> (Duration, Result<Bytes, Status>) {
    let fault = shared.meet(Method::AppendRows);
    shared.before(fault.as_ref(), door).await;
    let late = if let Some(Fault::Latency(late)) = fault { late } else { Duration::ZERO };
    let answer = answered(shared, appending, message, fault.as_ref());
    shared.after(fault.as_ref(), door).await;
    (late, answer)
}

fn answered(shared: &Shared, appending: &mut Appending, message: &Bytes, fault: Option<&Fault>) -> Result<Bytes, Status> {
    let appended = match fault {
        Some(Fault::Grpc(code, words, storage)) => return Err(Refused::scripted(*code, words, *storage).into_status()),
        Some(Fault::InBand(code, words, storage)) => Err(Refused::scripted(*code, words, *storage)),
        other => appending.append(shared, message, other),
    };
    let response = match appended {
        Ok(response) => response,
        Err(refused) if shared.state().errors_end_calls => return Err(refused.into_status()),
        Err(refused) => refused.into_response(),
    };
    Ok(response.encode_to_vec().into())
}
