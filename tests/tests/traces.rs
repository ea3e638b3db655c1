//! One frame, one trace: from capture on the sender to the result on the
//! server, as an OTLP collector receives it. A file of its own: the tracing
//! subscriber belongs to the whole process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::metrics::Metrics;
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::wait::until;
use flatframe_shared::telemetry::{self, TelemetryConfig};
use ingest_service::CameraConfig;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("not poisoned").extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_capture_to_result() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let collector = Collector::default();
    let routes = tonic::service::Routes::new(TraceServiceServer::new(collector.clone()));
    let stop = flatframe_shared::shutdown::CancellationToken::new();
    let serving = tokio::spawn(flatframe_shared::serve::serve(
        listener,
        flatframe_shared::serve::Protocol::Grpc,
        routes,
        Default::default(),
        Default::default(),
        stop.clone(),
        Duration::from_secs(1),
    ));
    let config = TelemetryConfig { log: "warn".into(), otlp_endpoint: endpoint, trace_ratio: 1.0 };
    let telemetry = telemetry::init("e2e", &config).expect("installed");

    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let camera = CameraConfig { fps: 50.0, ..CameraConfig::new("cam", "pattern") };
    let ingest = Running::start(ingest_config(&service.url(), vec![camera])).await.expect("starts");
    let analyzed = || ingest.totals().answered(flatframe_shared::outcome::Outcome::Analyzed);
    until("frames are analysed", Duration::from_secs(30), || analyzed() >= 20).await;
    ingest.stop().await.expect("stops");
    let shown = Metrics::read(service.admin).await.expect("answers");
    service.stop().await.expect("stops");
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await.expect("flushed");

    let spans = collector.0.lock().expect("not poisoned").clone();
    let frames: HashMap<_, _> =
        spans.iter().filter(|span| span.name == "frame").map(|span| (span.span_id.clone(), span)).collect();
    let inferences: Vec<_> = spans.iter().filter(|span| span.name == "inference").collect();
    assert!(inferences.len() >= 20, "{} spans in all", spans.len());
    for inference in inferences {
        let frame = frames.get(&inference.parent_span_id).expect("its parent is the frame's span at the sender");
        assert_eq!(frame.trace_id, inference.trace_id, "one trace");
        assert!(frame.start_time_unix_nano <= inference.start_time_unix_nano, "capture comes first");
    }
    // What Prometheus sees of a stage leads to the frames that took so long.
    let exemplars: Vec<_> = shown
        .text()
        .lines()
        .filter(|line| line.contains("stage_seconds_bucket{") && line.contains("stage=\"detect\""))
        .filter_map(|line| line.split_once("trace_id=\"")?.1.split_once('"'))
        .map(|(id, _)| id)
        .collect();
    assert!(!exemplars.is_empty(), "no exemplar in {}", shown.text());
    let traces: HashSet<_> = spans.iter().map(|span| hexadecimal(&span.trace_id)).collect();
    exemplars.iter().for_each(|id| assert!(traces.contains(*id), "{id} is no trace"));
    stop.cancel();
    serving.await.expect("the collector ends");
}
