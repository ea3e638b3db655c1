//! Real peers are read: MJPEG servers (ffmpeg, ustreamer and motion, whose
//! headers all differ), an RTSP server, and ffmpeg as a child. A peer that is
//! not installed is skipped, visibly; CI installs all. Every picture is decoded,
//! so that "read" means "whole".

#[path = "real_peers/peers.rs"]
mod peers;

#[path = "real_peers/children.rs"]
mod children;
#[path = "real_peers/mjpeg_servers.rs"]
mod mjpeg_servers;
#[path = "real_peers/recordings.rs"]
mod recordings;
#[path = "real_peers/rtsp_servers.rs"]
mod rtsp_servers;
