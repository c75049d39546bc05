//! Spans for OpenTelemetry, as OTLP over HTTP: what the agent does, how long it took and what came of it, without content.
//!
//! opentelemetry's own processors start threads, which the sandbox forbids before it is entered, and its clients have a way
//! out of their own. Here spans wait in a short queue, and leave by the daemon's guarded way.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use claviger::agent::{SPANS, net::HttpClient};
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

/// Spans that wait to be brought, at most: more are dropped, since they may not hold up a message.
const WAITING: usize = 4096;
/// Spans that are brought at once.
const BATCH: usize = 512;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// Where ended spans go, once they are wanted.
static QUEUE: OnceLock<mpsc::Sender<SpanData>> = OnceLock::new();
static WANTED: AtomicBool = AtomicBool::new(false);

/// Makes spans of the agent's, when they are wanted.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let tracer = SdkTracerProvider::builder().with_span_processor(Queue).build().tracer("claviger");
    let wanted = |metadata: &Metadata<'_>, _: &Context<'_, S>| {
        WANTED.load(Ordering::Relaxed) && metadata.is_span() && metadata.target() == SPANS
    };
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(dynamic_filter_fn(wanted).with_max_level_hint(LevelFilter::INFO))
}

/// Has spans brought to a collector from now on.
pub fn bring(url: &str, client: HttpClient) -> Result<(), Failure> {
    let wrong = |said: String| Failure::words("bad-config", format!("otlp in [ops]: {said}"));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(WayOut(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url);
    let mut exporter = exporter.build().map_err(|error| wrong(error.to_string()))?;
    exporter.set_resource(&Resource::builder_empty().with_service_name("claviger").build());
    let (queue, mut ended) = mpsc::channel(WAITING);
    // It is begun once.
    let _ = QUEUE.set(queue);
    WANTED.store(true, Ordering::Relaxed);
    tokio::spawn(async move {
        let mut failing = false;
        let mut batch = Vec::new();
        while ended.recv_many(&mut batch, BATCH).await > 0 {
            let brought = exporter.export(std::mem::take(&mut batch)).await;
            match &brought {
                Err(error) if !failing => tracing::warn!(%error, "spans are not taken, and dropped until they are"),
                Ok(()) if failing => tracing::info!("spans are taken again"),
                _ => {}
            }
            failing = brought.is_err();
            tokio::time::sleep(GATHER).await;
        }
    });
    Ok(())
}

/// Puts spans that have ended where they are fetched from.
#[derive(Debug)]
struct Queue;

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(queue) = QUEUE.get() {
            // A collector that is slow or away loses spans.
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

/// The daemon's way out, as the exporter wants it.
struct WayOut(HttpClient);

impl std::fmt::Debug for WayOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WayOut")
    }
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for WayOut {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, content) = request.into_parts();
        let sent = self.0.post_to_own(&head.uri.to_string(), "application/x-protobuf", &[], content).await?;
        Ok(Response::builder().status(sent.as_u16()).body(Bytes::new())?)
    }
}
