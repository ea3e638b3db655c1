//! What is refused, and that the example is the truth.

use super::*;

const EXAMPLE: &str = include_str!("../../config.example.toml");

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), text).expect("write");
    Config::load(Some(file.path()), &[], &Machine::unknown())
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let example: Config = toml::from_str(EXAMPLE).expect("the example parses");
    let camera = CameraConfig::new("front-door", "pattern");
    assert_eq!(example, Config { camera: vec![camera], ..Config::default() });
    example.plans().expect("the example can work");

    let written: toml::Table = EXAMPLE.parse().expect("TOML");
    let known: toml::Table = example.to_toml().parse().expect("TOML");
    assert_eq!(keys(&written), keys(&known), "a key is missing in config.example.toml, or has no default");
}

/// All keys with their tables.
fn keys(table: &toml::Table) -> Vec<String> {
    let mut all: Vec<String> = table
        .iter()
        .flat_map(|(key, value)| match value {
            toml::Value::Table(inner) => keys(inner).into_iter().map(|inner| format!("{key}.{inner}")).collect(),
            toml::Value::Array(items) if key == "camera" => {
                let first = items.first().and_then(toml::Value::as_table).expect("a camera");
                keys(first).into_iter().map(|inner| format!("{key}.{inner}")).collect()
            }
            _ => vec![key.clone()],
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_small_machine_lowers_what_nobody_set() {
    let machine = Machine { memory_bytes: Some(427 << 20), ..Machine::unknown() };
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let text = "[limits]\nmax_in_flight = 3\n[[camera]]\nid = 'a'\nsource = 'pattern'\n";
    std::fs::write(file.path(), text).expect("write");
    let load = |flags: &[(String, String)]| Config::load(Some(file.path()), flags, &machine).expect("can work").limits;
    let small = load(&[]);
    assert_eq!((small.max_source_width_px, small.max_in_flight), (1280, 3), "set in the file: it wins");
    let named = load(&[("runtime.profile".into(), "2gb".into())]);
    assert_eq!(named, LimitsConfig { max_in_flight: 3, ..LimitsConfig::default() });
}

#[test]
fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
    let camera = "[[camera]]\nid = 'a'\nsource = 'pattern'\n";
    for (text, words) in [
        ("", vec!["camera", "0 tables", "[[camera]]"]),
        ("servr.address = 'x'", vec!["servr"]),
        ("[server]\naddress = 'cam:50051'", vec!["server.address", "cam:50051", "http://HOST:PORT"]),
        ("[server]\naddress = 'ftp://cam:50051'", vec!["server.address", "https://HOST:PORT"]),
        ("[server]\naddress = 'https://cam:50051'", vec!["server.ca", "certs init"]),
        ("[server]\naddresses = ['http://a:1', 'b:1']", vec!["server.addresses", "b:1", "http://HOST:PORT"]),
        (many_servers(), vec!["server.addresses", "65 servers", "at most 64"]),
        ("[server]\nreturn_s = 0", vec!["server.return_s", "0", "1 to 86400"]),
        ("[server]\ndead_after_ms = 100", vec!["server.dead_after_ms", "100", "500 to 60000"]),
        ("[admin]\nlisten = 'everywhere'", vec!["admin.listen", "everywhere", "IP:PORT"]),
        ("[limits]\nmailbox_frames = 0", vec!["limits.mailbox_frames", "0", "1 to 64"]),
        ("[limits]\nmailbox_bytes = 5000", vec!["limits.mailbox_bytes", "5000", "524288"]),
        ("[limits]\nmax_in_flight = 'many'", vec!["max_in_flight", "many"]),
        ("[runtime]\nprofile = 'tiny'", vec!["runtime.profile", "tiny", "auto, 512mb"]),
        ("[runtime]\nworker_threads = 0", vec!["runtime.worker_threads", "1 to 64"]),
        ("[telemetry]\ntrace_ratio = 2.0", vec!["telemetry.trace_ratio"]),
        ("[[camera]]\nid = 'a b'\nsource = 'pattern'", vec!["camera.id", "a b"]),
        ("[[camera]]\nid = 'a'\nsource = 'patern'", vec!["camera a: source", "patern", "use pattern"]),
        (camera.repeat(2).leak(), vec!["camera.id", "a", "id of its own"]),
        (with(camera, "fps = 0.0"), vec!["camera a: fps", "0.01 to 240"]),
        (with(camera, "fps = nan"), vec!["camera a: fps", "NaN"]),
        (with(camera, "fps = 'fast'"), vec!["fast", "fps"]),
        (with(camera, "ttl_ms = 60001"), vec!["camera a: ttl_ms", "60001", "1 to 60000"]),
        (with(camera, "ttl_ms = -1"), vec!["ttl_ms", "-1"]),
        (with(camera, "rotation_degrees = 45"), vec!["rotation_degrees", "45", "270"]),
        (with(camera, "quality = 0"), vec!["quality", "1 to 100"]),
        (with(camera, "quality = 300"), vec!["quality", "300"]),
        (with(camera, "faces = 5"), vec!["faces", "5", "1 to 4"]),
        (with(camera, "width_px = 100"), vec!["width_px", "100", "160 to 1920"]),
        (with(camera, "height_px = 2000"), vec!["height_px", "2000", "1080"]),
        (with(camera, "no_picture_ms = 1"), vec!["no_picture_ms", "500 to"]),
        (with(camera, "command = ['cat']"), vec!["command", "cat", "rpicam"]),
        (with(camera, "max_bytes_per_s = 100"), vec!["max_bytes_per_s", "100", "4096"]),
        (with(camera, "motion_percent = 101.0"), vec!["motion_percent", "101", "0 to 100"]),
        (with(camera, "still_keepalive_ms = 1"), vec!["still_keepalive_ms", "100 to 600000"]),
        (with(camera, "region = [0.5, 0.0, 0.6, 1.0]"), vec!["region", "0.6", "0 to 1"]),
        (with(camera, "region = [0.0, 0.0, 1.0]"), vec!["region"]),
        (with(camera, "masks = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0]]"), vec!["masks", "at least 0.01"]),
        (
            with(camera, &format!("masks = [{}]", "[0.0, 0.0, 0.5, 0.5],".repeat(17))),
            vec!["masks", "17 masks", "at most 16"],
        ),
        (with(camera, "controls = ['--hflip']"), vec!["controls", "--hflip", "rpicam"]),
        (with(camera, "ffmpeg_input_options = ['-re']"), vec!["ffmpeg_input_options", "-re", "ffmpeg:INPUT"]),
        (with(camera, "transport = 'sctp'"), vec!["sctp", "tcp", "udp"]),
        (with(camera, "h264 = 'vlc'"), vec!["vlc", "auto", "ffmpeg", "openh264"]),
        (with(camera, "password = 'x'"), vec!["username"]),
        (with(camera, "password_env = 'FLATFRAME_TEST_NOT_SET'"), vec!["password_env", "FLATFRAME_TEST_NOT_SET"]),
        (
            with(camera, "record = 'always'"),
            vec!["camera a: record", "always", "use off, continuous, motion or outage"],
        ),
        (with(camera, "record = 'motion'"), vec!["recording.dir", "camera a", "name a folder"]),
        (
            "[recording]\ndir = '/tmp'\n[[camera]]\nid = '..'\nsource = 'pattern'\nrecord = 'motion'",
            vec!["camera.id", "'.'"],
        ),
        (recording("max_bytes = 1000"), vec!["recording.max_bytes", "1000", "16777216"]),
        (recording("segment_s = 10"), vec!["recording.segment_s", "60 to 900"]),
        (recording("fps = 0.0"), vec!["recording.fps", "0.01 to 240"]),
        (recording("max_write_bytes_per_s = 1"), vec!["recording.max_write_bytes_per_s", "65536"]),
        (recording("sync_s = 0"), vec!["recording.sync_s", "1 to 3600"]),
        (recording("queue_bytes = 1000"), vec!["recording.queue_bytes", "2097152"]),
        (recording("before_bytes = 8000000\nqueue_bytes = 2097152"), vec!["recording.queue_bytes", "16000000"]),
        (recording("max_age_s = 1"), vec!["recording.max_age_s", "60 to"]),
        (with(camera, "colour = 'red'"), vec!["colour"]),
    ] {
        let error = load(text).map(|_| ()).expect_err(text).to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} missing for {text:?}: {error}");
        }
    }
}

fn many_servers() -> &'static str {
    format!("[server]\naddresses = [{}]", "'http://a:1',".repeat(65)).leak()
}

fn recording(lines: &str) -> &'static str {
    format!("[recording]\n{lines}\n[[camera]]\nid = 'a'\nsource = 'pattern'\n").leak()
}

fn with(camera: &str, line: &str) -> &'static str {
    format!("{camera}{line}\n").leak()
}

#[test]
fn openh264_is_taken_where_it_was_built_in() {
    let h264 = crate::config::H264Decoder::OpenH264;
    let camera = CameraConfig { h264, ..CameraConfig::new("a", "rtsp://cam/x") };
    match CameraPlan::new(&camera, &LimitsConfig::default()) {
        Ok(plan) => assert!(cfg!(feature = "h264") && plan.decodes_h264_here()),
        Err(error) => assert!(!cfg!(feature = "h264") && error.to_string().contains("--features h264"), "{error}"),
    }
    let plan = CameraPlan::new(&CameraConfig::new("a", "rtsp://cam/x"), &LimitsConfig::default()).expect("valid");
    assert_eq!(plan.decodes_h264_here(), cfg!(feature = "h264"));
}

#[test]
fn no_password_is_shown() {
    let mut camera = CameraConfig::new("a", "mjpeg+http://user:s3cret@cam/x");
    camera.username = "user".into();
    camera.password = Password("s3cret".into());
    let others = ["rtsp://user:s3cret@cam/x", "ffmpeg:rtsp://user:s3cret@cam/x"];
    let others = others.into_iter().zip(["b", "c"]).map(|(source, id)| CameraConfig::new(id, source));
    let config = Config { camera: [camera].into_iter().chain(others).collect(), ..Config::default() };
    let plans = config.plans().expect("valid");
    for shown in [config.to_toml(), format!("{config:?}"), format!("{plans:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_configured_login_wins_over_the_one_in_the_source() {
    let mut camera = CameraConfig::new("a", "mjpeg+http://old:old@cam/x");
    camera.username = "new".into();
    let plan = CameraPlan::new(&camera, &LimitsConfig::default()).expect("valid");
    assert_eq!(plan.login.expect("set").username, "new");
}
