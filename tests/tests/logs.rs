//! What a service does when nobody takes what it says: it goes on.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::program::{Program, free_address};
use e2e::wait::answered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

async fn lives(admin: SocketAddr) -> Option<()> {
    let mut socket = TcpStream::connect(admin).await.ok()?;
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.ok()?;
    text.starts_with("HTTP/1.1 200").then_some(())
}

/// Neither a full device behind stdout and stderr nor a pipe whose reader is
/// gone keeps a service from starting, serving and ending in order.
#[tokio::test]
async fn full_and_broken_outputs_are_no_reason_to_end() {
    for outputs in [">/dev/full 2>&1", "> >(exec true) 2>&1"] {
        let script = format!("exec \"$@\" {outputs}");
        let starter = ["bash", "-c", &script, "bash"];
        let port = || free_address().expect("a port");
        let (grpc, server_admin, sender_admin) = (port(), port(), port());
        let server = format!(
            "[listen]\ngrpc = '{grpc}'\nadmin = '{server_admin}'\npage = ''\n[vision.stub_engine]\ntime_us = 1\n"
        );
        let sender = format!(
            "[server]\naddress = 'http://{grpc}'\n[admin]\nlisten = '{sender_admin}'\n[[camera]]\nid = 'a'\nsource = 'pattern'\n"
        );
        for (name, toml, admin) in
            [("inference-service", server, server_admin), ("ingest-service", sender, sender_admin)]
        {
            let mut program = Program::start_by(&starter, name, &toml).expect("starts");
            answered(&format!("{name} {outputs} lives"), PATIENCE, async || lives(admin).await).await;
            program.signal(libc::SIGTERM).expect("told");
            let status = program.wait(PATIENCE).await.expect("ends");
            assert!(status.success(), "{name} {outputs}: {status}");
        }
    }
}
