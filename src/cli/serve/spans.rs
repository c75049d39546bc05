//! Exports the agent's spans to an OpenTelemetry collector, as OTLP over HTTP. Spans contain no message content.
//!
//! opentelemetry's own span processors start threads before the sandbox is entered, which the sandbox forbids, and its
//! HTTP clients would bypass the address guard. So spans wait in a short queue, and are sent with the daemon's own
//! client.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use claviger::{agent::SPAN_TARGET, net::HttpClient};
use http::{Request, Response};
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::sync::mpsc;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::dynamic_filter_fn, layer::Context, registry::LookupSpan};

use crate::cli::failure::Failure;

/// The capacity of the queue. If the queue is full, spans are dropped, so that they never hold up a message.
const QUEUE_CAPACITY: usize = 4096;
/// The number of spans in one request, at most.
const BATCH: usize = 512;
/// The pause between two requests.
const PAUSE: Duration = Duration::from_secs(1);

/// The queue for finished spans. It is set when the export starts.
static QUEUE: OnceLock<mpsc::Sender<SpanData>> = OnceLock::new();
/// Whether spans are recorded.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// The layer that records the agent's spans, once the export has started.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let tracer = SdkTracerProvider::builder().with_span_processor(Queue).build().tracer("claviger");
    let is_recorded = |metadata: &Metadata<'_>, _: &Context<'_, S>| {
        ENABLED.load(Ordering::Relaxed) && metadata.is_span() && metadata.target() == SPAN_TARGET
    };
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(dynamic_filter_fn(is_recorded).with_max_level_hint(LevelFilter::INFO))
}

/// Exports spans to a collector from now on.
pub fn export(url: &str, client: HttpClient) -> Result<(), Failure> {
    let invalid = |message: String| Failure::usage("bad-config", format!("otlp in [ops]: {message}"));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(GuardedClient(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url);
    let mut exporter = exporter.build().map_err(|error| invalid(error.to_string()))?;
    exporter.set_resource(&Resource::builder_empty().with_service_name("claviger").build());
    let (queue, mut finished) = mpsc::channel(QUEUE_CAPACITY);
    // Fails only if the export was started before.
    let _ = QUEUE.set(queue);
    ENABLED.store(true, Ordering::Relaxed);
    tokio::spawn(async move {
        let mut failing = false;
        let mut batch = Vec::new();
        while finished.recv_many(&mut batch, BATCH).await > 0 {
            let exported = exporter.export(std::mem::take(&mut batch)).await;
            match &exported {
                Err(error) if !failing => {
                    tracing::warn!(%error, "spans not exported; dropping them until the collector accepts")
                }
                Ok(()) if failing => tracing::info!("spans exported again"),
                _ => {}
            }
            failing = exported.is_err();
            tokio::time::sleep(PAUSE).await;
        }
    });
    Ok(())
}

/// Puts finished spans into the queue.
#[derive(Debug)]
struct Queue;

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(queue) = QUEUE.get() {
            // Fails if the queue is full: spans for a slow collector are lost.
            let _ = queue.try_send(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The daemon's HTTP client, which refuses private addresses, as the exporter's client.
struct GuardedClient(HttpClient);

impl std::fmt::Debug for GuardedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuardedClient")
    }
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for GuardedClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, content) = request.into_parts();
        let sent = self.0.post_without_redirects(&head.uri.to_string(), "application/x-protobuf", &[], content).await?;
        Ok(Response::builder().status(sent.status).body(Bytes::new())?)
    }
}
