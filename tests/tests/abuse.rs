//! HTTP/2 and gRPC abuse, in raw frames, of the server as a program: its memory
//! stays below its budget and comes back, a camera beside keeps its outcomes,
//! and others are served while the attacker holds what it has.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::camera::PATIENCE;
use e2e::http2::{
    ACK, END_HEADERS, END_STREAM, INITIAL_WINDOW, Kind, MAX_PAYLOAD, PREFACE, RawConnection, call, call_headers, frame,
    literal, message, message_prefix, reset, settings, streams, window_update,
};
use e2e::siege::Siege;
use e2e::wait::answered;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const PUBLISH: &str = "/flatframe.v1.FrameService/Publish";
const DETECT: &str = "/flatframe.v1.DetectService/Detect";
const LIST: &str = "/flatframe.v1.ResultService/ListCameras";
const LATEST: &str = "/flatframe.v1.ResultService/GetLatest";
const WATCH: &str = "/flatframe.v1.ResultService/Watch";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// Calls that the server allows on one connection.
const CALLS: u32 = 64;
/// Less than half of what such clients make the server hold (12 to 19 MiB): more
/// is growth, bytes.
const MORE_BYTES: u64 = 8 << 20;
/// Longer than any of the server's limits on one connection but the idle one.
const CUT_WITHIN: Duration = Duration::from_secs(20);

/// A `ServerReflectionRequest` for the file of a service, some 20 KiB:
/// `file_containing_symbol` has the number 4.
fn reflection_request() -> Vec<u8> {
    let symbol = b"flatframe.v1.FrameService";
    [&[4 << 3 | 2, symbol.len() as u8], symbol.as_slice()].concat()
}

/// A server whose budget is small beside what the attacks would cost without
/// a bound.
async fn begin() -> Siege {
    let limits = "max_streams = 8\nmax_cameras = 8\nmax_frame_bytes = 32768\nmax_subscribers = 8\n\
                  max_detect_calls = 2\nmax_detect_bytes = 65536\nmax_connections = 112";
    Siege::begin(limits).await.expect("starts")
}

/// A header block that never ends; one that does, but is too large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_floods() {
    let siege = begin().await;
    let one = literal("x-flood", &"x".repeat(1000));
    let block: Vec<u8> = one.iter().copied().cycle().take(MAX_PAYLOAD / one.len() * one.len()).collect();
    let mut connections = Vec::new();
    for _ in 0..16 {
        let mut endless = RawConnection::open(siege.address, &[]).await.expect("connects");
        endless.write(&frame(Kind::Headers, 0, 1, &call_headers(PUBLISH))).await.expect("writes");
        let mut written = 0;
        while written < 10_000 && endless.write(&frame(Kind::Continuation, 0, 1, &block)).await.is_ok() {
            written += 1;
        }
        assert!(written < 10_000, "160 MiB of headers were taken");
        assert!(endless.is_closed_within(CUT_WITHIN).await);

        let mut large = RawConnection::open(siege.address, &[]).await.expect("connects");
        for stream in streams(CALLS) {
            let _ = large.write(&frame(Kind::Headers, END_STREAM, stream, &call_headers(LATEST))).await;
            let _ = large.write(&frame(Kind::Continuation, 0, stream, &block)).await;
            let _ = large.write(&frame(Kind::Continuation, END_HEADERS, stream, &block)).await;
        }
        connections.push(large);
    }
    siege.others_are_served().await;
    drop(connections);
    siege.end("header floods").await.expect("holds");
}

/// Ten thousands of streams that are opened and never finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_never_finished() {
    let siege = begin().await;
    let mut held = Vec::new();
    for path in [PUBLISH, DETECT, LIST, WATCH, HEALTH_WATCH, REFLECT] {
        for _ in 0..4 {
            let (mut writer, reads) = RawConnection::open(siege.address, &[]).await.expect("connects").reading();
            for stream in streams(1000) {
                // Half of a message: what was read of it waits for the rest.
                let half = [&message_prefix(0, 20_000), [0; 1000].as_slice()].concat();
                let frames = [call(stream, path, 0), frame(Kind::Data, 0, stream, &half)].concat();
                if tokio::io::AsyncWriteExt::write_all(&mut writer, &frames).await.is_err() {
                    break;
                }
            }
            held.push((writer, reads));
        }
    }
    siege.others_are_served().await;
    drop(held);
    siege.end("streams never finished").await.expect("holds");
}

/// Calls that are reset as soon as they are made (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let siege = begin().await;
    let picture = [0; 2000];
    let mut connections = Vec::new();
    for path in [LIST, DETECT, PUBLISH, REFLECT] {
        let mut connection = RawConnection::open(siege.address, &[]).await.expect("connects");
        for stream in streams(10_000) {
            let frames = [call(stream, path, 0), message(stream, &picture), reset(stream)].concat();
            if connection.write(&frames).await.is_err() {
                break;
            }
        }
        connections.push(connection);
    }
    siege.others_are_served().await;
    drop(connections);
    siege.end("rapid reset").await.expect("holds");
}

/// Frames that ask for an answer, from a client that reads none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frame_floods() {
    let siege = begin().await;
    let floods = [
        frame(Kind::Ping, 0, 0, &[1; 8]),
        settings(&[(INITIAL_WINDOW, 1)]),
        settings(&[]),
        frame(Kind::Ping, ACK, 0, &[2; 8]),
        window_update(0, 1),
        frame(Kind::Reset, 0, 1, &[0; 4]),
    ];
    let mut tasks = Vec::new();
    for flood in floods {
        let mut connection = RawConnection::open(siege.address, &[]).await.expect("connects");
        let many = flood.repeat(1000);
        tasks.push(tokio::spawn(async move {
            let mut written = 0;
            while written < 500 && connection.write(&many).await.is_ok() {
                written += 1;
            }
            connection
        }));
    }
    siege.others_are_served().await;
    let mut connections = Vec::new();
    for task in tasks {
        connections.push(task.await.expect("joins"));
    }
    siege.others_are_served().await;
    drop(connections);
    siege.end("control frame floods").await.expect("holds");
}

/// Windows that do not grow, and that grow too far: errors by RFC 9113,
/// sections 6.9 and 6.9.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_windows() {
    let siege = begin().await;
    for stream in [0, 1] {
        for wrong in [window_update(stream, 0), window_update(stream, i32::MAX as u32).repeat(2).into()] {
            let mut connection = RawConnection::open(siege.address, &[]).await.expect("connects");
            let frames = [call(1, WATCH, 0), message(1, &[]), wrong].concat();
            connection.write(&frames).await.expect("writes");
            loop {
                match connection.read_frame().await {
                    Some((kind, _, on, _)) if kind == Kind::Reset as u8 && on == stream && stream > 0 => break,
                    Some((kind, ..)) if kind == Kind::GoAway as u8 => break,
                    Some(_) => {}
                    None => panic!("closed without a word"),
                }
            }
        }
    }
    // More than the window, to a call that reads nothing of it.
    let mut connection = RawConnection::open(siege.address, &[]).await.expect("connects");
    let _ = connection.write(&[call(1, WATCH, 0), frame(Kind::Data, 0, 1, &message_prefix(0, 0))].concat()).await;
    for _ in 0..1000 {
        if connection.write(&frame(Kind::Data, 0, 1, &[0; MAX_PAYLOAD])).await.is_err() {
            break;
        }
    }
    siege.others_are_served().await;
    drop(connection);
    siege.end("wrong windows").await.expect("holds");
}

/// Clients that send a byte now and then: of the preface, of the headers, of a
/// message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_cut() {
    let siege = begin().await;
    let opened = [PREFACE, &settings(&[])].concat();
    let headers = call(1, LIST, 0);
    let begun = [opened.clone(), headers.to_vec(), message_prefix(0, 1000).to_vec()].concat();
    let mut tasks = Vec::new();
    for (said, slowly) in [
        (Vec::new(), PREFACE.repeat(20)),
        (opened.clone(), headers.repeat(20)),
        (begun, frame(Kind::Data, 0, 1, &[0; 990]).to_vec()),
    ] {
        for _ in 0..20 {
            let mut connection = RawConnection::silent(siege.address).await.expect("connects");
            connection.write(&said).await.expect("writes");
            let slowly = slowly.clone();
            tasks.push(tokio::spawn(async move {
                let (mut writer, reads) = connection.reading();
                let mut pause = tokio::time::interval(Duration::from_millis(100));
                for byte in slowly {
                    pause.tick().await;
                    if tokio::io::AsyncWriteExt::write_all(&mut writer, &[byte]).await.is_err() {
                        break;
                    }
                }
                reads.await.expect("joins");
            }));
        }
    }
    siege.others_are_served().await;
    let all = async {
        for task in tasks {
            task.await.expect("joins");
        }
    };
    tokio::time::timeout(2 * CUT_WITHIN, all).await.expect("all are cut");
    siege.end("slow clients").await.expect("holds");
}

/// Clients with a window of one byte that ask for large answers on every call
/// of many connections: an answer that waits keeps its slot, so that what waits
/// is bounded, and a probe is answered all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers() {
    let siege = begin().await;
    let level = siege.rss_bytes();
    let mut after = Vec::new();
    for _ in 0..3 {
        let connections = ask_and_read_nothing(siege.address).await;
        let mut probe = answered("a client connects", PATIENCE, async || {
            let endpoint = Channel::from_shared(format!("http://{}", siege.address)).expect("a URL");
            endpoint.connect().await.ok().map(HealthClient::new)
        })
        .await;
        probe.check(HealthCheckRequest::default()).await.expect("the probe is answered at once");
        println!("unread answers: {} KiB above the level", siege.rss_bytes().saturating_sub(level) / 1024);
        siege.others_are_served().await;
        for connection in connections {
            assert!(connection.is_closed_within(CUT_WITHIN).await, "a client that takes no answer is not cut");
        }
        after.push(siege.rss_bytes());
    }
    // What the allocator keeps of the first round, it gives to the next.
    assert!(after[2] < after[1] + MORE_BYTES, "memory grows with each round: {after:?}");
    siege.end("unread answers").await.expect("holds");
}

/// Opens many connections with many calls whose answers do not fit.
async fn ask_and_read_nothing(server: SocketAddr) -> Vec<RawConnection> {
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = RawConnection::open(server, &[(INITIAL_WINDOW, 1)]).await.expect("connects");
        for stream in streams(CALLS) {
            let frames = [call(stream, REFLECT, 0), message(stream, &reflection_request())].concat();
            if connection.write(&frames).await.is_err() {
                break;
            }
        }
        connections.push(connection);
    }
    connections
}

/// Messages of 4 GiB, messages said to be compressed, messages of nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_messages() {
    let siege = begin().await;
    let mut connections = Vec::new();
    for prefix in
        [message_prefix(0, u32::MAX), message_prefix(1, 10), message_prefix(7, 10), message_prefix(1, u32::MAX)]
    {
        for path in [PUBLISH, DETECT, LIST, WATCH, REFLECT] {
            let mut connection = RawConnection::open(siege.address, &[]).await.expect("connects");
            let payload = [&prefix, [0; 16_000].as_slice()].concat();
            let frames = [call(1, path, 0), frame(Kind::Data, 0, 1, &payload)].concat();
            connection.write(&frames).await.expect("writes");
            // The call is answered, in its first answer or in trailers.
            loop {
                let (kind, flags, stream, _) = connection.read_frame().await.expect("the connection stands");
                if stream == 1 && kind == Kind::Headers as u8 && flags & END_STREAM != 0 {
                    break;
                }
            }
            connections.push(connection);
        }
    }
    siege.others_are_served().await;
    drop(connections);
    siege.end("impossible messages").await.expect("holds");
}

/// More connections than are allowed, without a call: they give way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections() {
    let siege = begin().await;
    let mut held = Vec::new();
    for number in 0..2000 {
        let connection = match number % 2 {
            0 => RawConnection::silent(siege.address).await,
            _ => RawConnection::open(siege.address, &[]).await,
        };
        // Reset already, as one of those that gave way: part of the attack.
        held.extend(connection.ok());
    }
    siege.others_are_served().await;
    drop(held);
    siege.end("idle connections").await.expect("holds");
}
