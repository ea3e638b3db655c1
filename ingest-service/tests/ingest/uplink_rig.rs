//! An uplink beside a scripted server, with the mailbox in the test's hands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraHello, CameraId, FrameNumber, PictureSize, Rotation, SessionId};
use flatframe_shared::histogram::Histogram;
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use ingest_service::frame::{Birth, PreparedFrame};
use ingest_service::send::Outbox;
use ingest_service::send::connection::{Liveness, endpoint};
use ingest_service::send::mailbox::Mailbox;
use ingest_service::send::servers::directory::Named;
use ingest_service::send::uplink::{Deadlines, Uplink};
use ingest_service::source::status::StatusCell;
use ingest_service::terms::TermsCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{FAR, FakeServer, PATIENCE, soon, until};

/// An uplink beside its server, with the mailbox in the test's hands.
pub struct Rig {
    pub server: FakeServer,
    pub outbox: Outbox,
    pub ledger: IngestLedger,
    pub terms: TermsCell,
    pub status: StatusCell,
    pub latency: Arc<Histogram>,
    pub finish: CancellationToken,
    pub running: JoinHandle<()>,
    pub number: u64,
    pub ttl: Duration,
}

pub fn quick() -> Deadlines {
    Deadlines {
        connect: PATIENCE,
        welcome: PATIENCE,
        reconnect: (Duration::from_millis(10), Duration::from_millis(50)),
        last_answers: Duration::from_millis(500),
        close: Duration::from_millis(500),
        ..Deadlines::default()
    }
}

/// Lets `time` pass at once, for all that goes by the runtime's clock.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(quick()).await
    }

    pub async fn with(deadlines: Deadlines) -> Self {
        let server = FakeServer::start().await;
        let (outbox, ledger) = (Outbox::new(Mailbox::new(2, 1 << 20)), IngestLedger::new());
        let (terms, status, latency) = (TermsCell::default(), StatusCell::new(), Arc::<Histogram>::default());
        let ttl = Duration::from_secs(20);
        let named = Named::parse(&server.url()).expect("a server");
        let way = endpoint(&named, None, Liveness::within(FAR), &TaskTracker::new()).expect("an address");
        let uplink = Uplink {
            server: Box::new(way),
            hello: CameraHello {
                camera: CameraId::parse("cam").expect("valid"),
                session: SessionId(7),
                software: "test".into(),
                rotation: Rotation::HalfTurn,
                wanted_fps: 5.0,
                ttl,
                display_name: "Camera".into(),
                late: false,
            },
            outbox: outbox.clone(),
            terms: terms.clone(),
            status: status.clone(),
            ledger: ledger.clone(),
            latency: latency.clone(),
            max_in_flight: 4,
            deadlines,
        };
        let finish = CancellationToken::new();
        let running = tokio::spawn(uplink.run(finish.clone()));
        Self { server, outbox, ledger, terms, status, latency, finish, running, number: 0, ttl }
    }

    /// Puts a frame of `age` into the mailbox.
    pub fn put_aged(&mut self, age: Duration) -> u64 {
        self.number += 1;
        let now = clock::now();
        let birth = Birth {
            number: FrameNumber(self.number),
            captured: now.checked_sub(age).expect("the machine runs longer"),
            captured_unix_us: 99,
            ttl: self.ttl,
            span: tracing::Span::none(),
        };
        let jpeg = Bytes::from(vec![self.number as u8; 1000]);
        let ticket = self.ledger.capture();
        self.outbox.put(PreparedFrame { birth, ticket, jpeg, size: PictureSize::new(64, 48) }, now);
        self.number
    }

    pub fn put(&mut self) -> u64 {
        self.put_aged(Duration::ZERO)
    }

    pub fn counts(&self) -> IngestCounts {
        let counts = self.ledger.counts();
        assert_eq!(counts.balance(), 0, "{counts:?}");
        counts
    }

    pub async fn connected(&self) {
        let terms = self.terms.clone();
        until("connected", || terms.get().is_some()).await;
    }

    pub async fn finish(self) -> IngestCounts {
        self.outbox.close();
        self.finish.cancel();
        soon("the uplink ends", self.running).await.expect("no panic");
        let counts = self.ledger.counts();
        assert_eq!((counts.balance(), counts.waiting, counts.in_flight), (0, 0, 0), "{counts:?}");
        counts
    }
}
