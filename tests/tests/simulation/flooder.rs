//! A camera that sends without credits, and may not read its answers: what a
//! broken or hostile sender does to the others.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use e2e::camera::{RawCamera, hello};
use flatframe_shared::frame::PictureSize;
use ingest_service::send::dial::Dial;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::network::SimDial;
use crate::scenario::Flooder;

/// Name of its host and id of its camera.
pub const NAME: &str = "flooder";
/// Before it connects again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long its frames live.
const TTL: Duration = Duration::from_millis(500);

/// Floods for ever, connecting again when it is cut.
pub async fn run(draw: Flooder) -> turmoil::Result {
    let connections = TaskTracker::new();
    let dial = SimDial::new(&connections);
    loop {
        let Err(_cut) = flood(&dial, draw).await;
        sleep(PAUSE).await;
    }
}

async fn flood(dial: &SimDial, draw: Flooder) -> Result<Infallible, Box<dyn std::error::Error>> {
    let (mut camera, _) = RawCamera::open(dial.dial().await?, hello(NAME, 1)).await?;
    loop {
        camera.send_frame(Bytes::from_static(&[0; 500]), PictureSize::new(64, 48), TTL).await?;
        let pause = sleep(draw.period);
        if draw.reads {
            let mut pause = std::pin::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    () = pause.as_mut() => break,
                    message = camera.next() => { message?.ok_or("the stream ended")?; }
                }
            }
        } else {
            pause.await;
        }
    }
}
