//! Decodes H.264 by a supervised ffmpeg that reads it from a pipe and writes
//! JPEGs of the wanted size and rate to another. The camera's address and
//! password stay here: a command line can be read by everyone on the machine.

use flatframe_shared::outcome::DropReason;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::mjpeg_child::MjpegChild;
use crate::source::rtsp::pictures::{Coded, CodedPictures};
use crate::source::{SourceError, ffmpeg};

/// An access unit delimiter (NAL unit 9; ITU-T H.264, 7.3.2.4). Behind a
/// picture it says that the picture is over: ffmpeg would wait for the next one.
const DELIMITER: [u8; 6] = [0, 0, 0, 1, 9, 0xF0];
/// Begins every NAL unit.
const START: [u8; 4] = [0, 0, 0, 1];

/// The time of a picture is when it comes, and nothing is gained by collecting
/// some before the first is decoded. One thread: more would each hold a picture
/// back.
const INPUT_OPTIONS: [&str; 14] = [
    "-threads",
    "1",
    "-flags",
    "low_delay",
    "-probesize",
    "32",
    "-analyzeduration",
    "0",
    "-fpsprobesize",
    "0",
    "-use_wallclock_as_timestamps",
    "1",
    "-f",
    "h264",
];

/// Decodes until the camera or ffmpeg ends, or `stop`.
///
/// # Errors
/// Which of them ended, and how.
pub async fn decode(
    mut pictures: CodedPictures,
    plan: &CameraPlan,
    capture: &mut Capture,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    let command = ffmpeg::command(&INPUT_OPTIONS.map(String::from), "pipe:0", plan);
    let (mut child, mut stdin) = MjpegChild::start_fed(&command, plan.max_picture_bytes)?;
    let mut waiting: Vec<u8> = Vec::new();
    let mut written = 0;
    let ended = loop {
        tokio::select! {
            () = stop.cancelled() => break None,
            more = child.read(capture) => if !more { break None },
            wrote = stdin.write(&waiting[written..]), if written < waiting.len() => match wrote {
                Ok(bytes) => written += bytes,
                // It ends: its last words say why.
                Err(_) => break None,
            },
            // Nothing is read while ffmpeg has not taken the picture before: a
            // slow machine shows at the camera, not in memory.
            next = pictures.next(), if written == waiting.len() => match next {
                Ok(Coded::Whole(picture)) => {
                    delimit(&picture, &mut waiting);
                    written = 0;
                }
                Ok(Coded::Damaged) => capture.broken(DropReason::Corrupt),
                Ok(Coded::NotWanted) => {}
                Err(error) => break Some(error),
            },
        }
    };
    drop(stdin);
    let how = child.end().await;
    match ended {
        _ if stop.is_cancelled() => Ok(()),
        Some(error) => Err(error),
        None => Err(SourceError::Ended(how)),
    }
}

/// Writes `picture` into `out` with a delimiter behind it, and without the
/// camera's own before it: two in a row would be taken for an empty picture.
fn delimit(picture: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = picture;
    // Parameters and the like stand before the first slice, a unit of type 1 to 5.
    while let Some(&header) = rest.get(START.len())
        && !matches!(header & 0x1F, 1..=5)
    {
        let next = rest.windows(START.len()).skip(1).position(|bytes| bytes == START);
        let (unit, after) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
        if header & 0x1F != DELIMITER[4] {
            out.extend_from_slice(unit);
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&DELIMITER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_delimiter_and_it_stands_last() {
        let unit = |header: u8, body: &[u8]| [&START[..], &[header], body].concat();
        let (parameters, slice, own) = (unit(0x67, &[1, 2, 3]), unit(0x65, &[9, 8, 7]), unit(9, &[0x10]));
        for (picture, expected) in [
            ([&parameters[..], &own, &slice, &slice].concat(), [&parameters[..], &slice, &slice, &DELIMITER].concat()),
            ([&own[..], &slice].concat(), [&slice[..], &DELIMITER].concat()),
            (slice.clone(), [&slice[..], &DELIMITER].concat()),
            (Vec::new(), DELIMITER.to_vec()),
        ] {
            let mut out = vec![1];
            delimit(&picture, &mut out);
            assert_eq!(out, expected);
        }
    }
}
