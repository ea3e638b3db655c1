//! Logs to stderr and, when an endpoint is configured, traces to OTLP. Sets the
//! only global state there is: the tracing subscriber. Traces carry one frame
//! from capture to result through [`traceparent`] and [`continue_trace`].

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::ConfigError;

/// Target of the spans of single frames. They exist only for OTLP: no log
/// shows them, and without an endpoint they cost one check.
pub const FRAME_TARGET: &str = "flatframe::frame";

/// Most spans that wait for export; more are dropped and counted by the SDK.
const MAX_SPANS_WAITING: usize = 2048;
/// Longest wait for the collector.
const EXPORT_DEADLINE: Duration = Duration::from_secs(3);

/// What to log and where to send traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Log filter: a level, or `target=level` pairs.
    pub log: String,
    /// OTLP/gRPC endpoint for traces, such as `http://collector:4317`; empty
    /// switches traces off.
    pub otlp_endpoint: String,
    /// Share of frames that are traced, 0 to 1.
    pub trace_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".into(), otlp_endpoint: String::new(), trace_ratio: 1.0 }
    }
}

impl TelemetryConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`], naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        crate::config::in_range("telemetry.trace_ratio", self.trace_ratio, 0.0..=1.0)?;
        let endpoint = self.otlp_endpoint.as_str();
        if !endpoint.is_empty() && !endpoint.starts_with("http://") {
            let allowed = "use http://HOST:PORT, or leave it empty to switch traces off";
            return Err(ConfigError::not_allowed("telemetry.otlp_endpoint", endpoint, allowed));
        }
        log_filter(&self.log).map(drop)
    }
}

/// Reads a log filter. A word that is neither a level nor `target=level` is
/// refused: taken as a target, it would silence everything else.
fn log_filter(text: &str) -> Result<Targets, ConfigError> {
    let allowed = "use off, error, warn, info, debug, trace or target=level, separated by commas";
    let refused = || ConfigError::not_allowed("telemetry.log", text, allowed);
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let is_known = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part),
    };
    if !text.split(',').all(|part| is_known(part.trim())) {
        return Err(refused());
    }
    text.split(',').map(str::trim).collect::<Vec<_>>().join(",").parse().map_err(|_| refused())
}

/// Keeps telemetry alive; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Installs the subscriber and a panic hook that logs before the process
/// aborts. Call once, from inside the runtime.
///
/// # Errors
/// When the endpoint or the filter cannot be used, or a subscriber is
/// installed already.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<Telemetry, ConfigError> {
    config.check()?;
    let is_frame = |target: &str| target == FRAME_TARGET;
    // Colours are for people: a journal or a collector gets plain text.
    let is_for_people = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_for_people)
        .with_filter(tracing_subscriber::filter::filter_fn(move |meta| !is_frame(meta.target())))
        .with_filter(log_filter(&config.log)?);
    let traces = match config.otlp_endpoint.as_str() {
        "" => None,
        endpoint => Some(traces(service, endpoint, config.trace_ratio)?),
    };
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("flatframe"))
            .with_filter(Targets::new().with_target(FRAME_TARGET, LevelFilter::TRACE))
    });
    tracing_subscriber::registry()
        .with(logs)
        .with(spans)
        .try_init()
        .map_err(|error| ConfigError::Wrong(error.to_string()))?;
    abort_on_panic();
    Ok(Telemetry { traces })
}

fn traces(service: &'static str, endpoint: &str, ratio: f64) -> Result<SdkTracerProvider, ConfigError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_DEADLINE)
        .build()
        .map_err(|error| ConfigError::not_allowed("telemetry.otlp_endpoint", endpoint, error.to_string()))?;
    let batches = BatchSpanProcessor::builder(exporter)
        .with_batch_config(BatchConfigBuilder::default().with_max_queue_size(MAX_SPANS_WAITING).build())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(batches)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

/// A panic ends the process in every build: a service with one dead thread
/// would look alive and do nothing.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!(panic = %info, "a defect: the process ends now, please report this line");
        print(info);
        std::process::abort();
    }));
}

impl Telemetry {
    /// Sends the spans that still wait, for at most 3 s. Blocks.
    pub fn shutdown(self) {
        let Some(traces) = self.traces else { return };
        if let Err(error) = traces.shutdown_with_timeout(EXPORT_DEADLINE) {
            tracing::warn!(%error, "the last traces were not delivered");
        }
    }
}

/// The W3C traceparent of `span`; empty when it is not traced.
pub fn traceparent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let mut carrier = HashMap::with_capacity(2);
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove("traceparent").unwrap_or_default()
}

/// Id of the trace of `span`, in hexadecimal digits, for exemplars and logs;
/// `None`: it is not traced.
pub fn trace_id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_sampled().then(|| context.trace_id().to_string())
}

/// Makes `span` a child of the span that `traceparent` names. Does nothing
/// when `span` is not traced or `traceparent` is empty or malformed.
pub fn continue_trace(span: &Span, traceparent: &str) {
    if span.is_disabled() || traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&carrier);
    if parent.span().span_context().is_valid() {
        // It fails only when no OTLP layer is installed: then nothing is lost.
        let _ = span.set_parent(parent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named() {
        let good = TelemetryConfig::default();
        assert!(good.check().is_ok());
        for (config, key) in [
            (TelemetryConfig { trace_ratio: 1.5, ..good.clone() }, "trace_ratio"),
            (TelemetryConfig { otlp_endpoint: "collector".into(), ..good.clone() }, "otlp_endpoint"),
            (TelemetryConfig { log: "a=b=c".into(), ..good.clone() }, "telemetry.log"),
            (TelemetryConfig { log: "inf".into(), ..good }, "telemetry.log"),
        ] {
            let error = config.check().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn filters_are_levels_and_targets() {
        for bad in ["", "info,", ",info", "ingest_service=", "=info", "inf", "5x"] {
            assert!(log_filter(bad).is_err(), "{bad:?}");
        }
        for good in ["info", "off", "WARN", "warn, ingest_service=debug", "h2=trace,info"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        let filter = log_filter("warn, ingest_service=debug").expect("good");
        assert!(filter.would_enable("ingest_service::send", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("h2", &tracing::Level::INFO));
    }

    #[test]
    fn an_untraced_span_has_no_traceparent() {
        let span = tracing::trace_span!(target: FRAME_TARGET, "frame");
        continue_trace(&span, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(traceparent(&span), "");
    }
}
